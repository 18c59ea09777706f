"""The folder of an unfinished run, `OUT.parts/`: what a run that was killed goes on from."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from toolkit.batch.paths import PathList
from toolkit.errors import UsageError
from toolkit.files import write_bytes
from toolkit.resume import require_same

_OURS = ("*.parquet", ".*.parquet", "*.begun", "lock", ".plan.*.json", "plan.json")


class Begun(msgspec.Struct, frozen=True):
    """What `plan.json` says.

    Attributes:
        run: what the run is of, as plain values.
        files: how many it is over.
        written: the identity of the file that all was written to; None before that.
        tally: of its rows.
    """

    run: dict[str, Any]
    files: int
    written: tuple[int, int] | None = None
    tally: dict[str, dict[str, int]] = {}

    def wrote(self, out: Path) -> bool:
        """Whether a file is the one that was written."""
        return self.written == _identity(out)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Workspace:
    """The folder of an unfinished run.

    `listing.parquet` holds the paths; `plan.json`, written after it, what the run is of;
    `000000.parquet` and so on the rows of each shard that is done; `lock` keeps others out.

    Attributes:
        out: the file that the run comes to.
    """

    out: Path

    @property
    def folder(self) -> Path:
        """The folder of parts."""
        return self.out.with_name(f"{self.out.name}.parts")

    @property
    def paths(self) -> PathList:
        """The frozen paths."""
        return PathList(self.folder / "listing.parquet")

    def part(self, shard: int) -> Path:
        """The file of a shard's rows."""
        return self.folder / f"{shard:06d}.parquet"

    def begun_mark(self, shard: int) -> Path:
        """The file that says that someone began a shard, where that must be known."""
        return self.folder / f"{shard:06d}.begun"

    def pending(self, shards: int) -> list[int]:
        """The numbers of the shards that are not done."""
        there = {path.name for path in self.folder.iterdir()}
        return [shard for shard in range(shards) if self.part(shard).name not in there]

    def begin(self, run: dict[str, Any], files: int) -> None:
        """Record what the run is of, and over how many files, once its paths are frozen."""
        self._record(Begun(run, files))

    def finish(
        self, run: dict[str, Any], files: int, temporary: Path, tally: dict[str, dict[str, int]]
    ) -> None:
        """Record what was written, before it is renamed to `out`."""
        self._record(Begun(run, files, _identity(temporary), tally))

    def resume(self, run: dict[str, Any]) -> "Begun | None":
        """Return what is known of the run; None if it has not begun.

        Args:
            run: what it is of, as plain values.

        Raises:
            UsageError: the parts are of another run.
        """
        try:
            begun = msgspec.json.decode((self.folder / "plan.json").read_bytes(), type=Begun)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{self.folder} holds no plan that can be read: remove it, or choose another --out"
            ) from error
        require_same(begun.run, run, f"the run in {self.folder}", "another --out")
        return begun

    def _record(self, begun: "Begun") -> None:
        content = msgspec.json.format(msgspec.json.encode(begun), indent=2)
        write_bytes(self.folder / "plan.json", content + b"\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other runs out of it.

        Raises:
            UsageError: another run is at work there, or the folder cannot be written.
        """
        import fcntl

        try:
            self.folder.mkdir(exist_ok=True)
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise UsageError(
                f"cannot write {self.folder}: {error.strerror}; choose another --out"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another run is at work on {self.out}: wait for it, or choose another --out"
                ) from None
            yield

    def remove(self) -> None:
        """Remove the folder, plan last; what is not of a run stays."""
        for pattern in _OURS:
            for path in self.folder.glob(pattern):
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

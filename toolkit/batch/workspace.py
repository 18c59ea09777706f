"""The folder of an unfinished run, `OUT.parts/`: what a run that was killed goes on from."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from toolkit.batch.paths import PathList
from toolkit.errors import UsageError
from toolkit.files import sha256, write_bytes
from toolkit.resume import require_same

_OURS = (
    *("*.parquet", ".*.parquet", "*.begun", "lock"),
    *(".plan.*.json", "plan.json", ".result.*.json", "result.json"),
)


class Result(msgspec.Struct, frozen=True):
    """What a run came to.

    Attributes:
        run: what it is of, as plain values.
        files: how many it is over.
        written: the identity of the file.
        tally: how many rows there are with each value of `label` and of `error`.
    """

    run: dict[str, Any]
    files: int
    written: tuple[int, int]
    tally: dict[str, dict[str, int]]


def identity(path: Path) -> tuple[int, int]:
    """Return size and time of a file, which keeps both when it is renamed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Workspace:
    """The folder of an unfinished run.

    `listing.parquet` holds the paths; `plan.json`, written after it, what the run is of, with its
    own hash and the listing's; `000000.parquet` and so on the rows of each shard that is done, with
    the plan's; `result.json`, written before it has its name, what the file is; `lock` keeps others
    out.

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

    def done(self, shards: int) -> list[int]:
        """The numbers of the shards, of so many, that have a part."""
        there = {path.name for path in self.folder.iterdir()}
        return [shard for shard in range(shards) if self.part(shard).name in there]

    def pending(self, shards: int) -> list[int]:
        """The numbers of the shards, of so many, that have none."""
        return sorted(set(range(shards)) - set(self.done(shards)))

    def begin(self, run: dict[str, Any], files: int) -> None:
        """Record what the run is of, and over how many files, once its paths are frozen."""
        content = {"run": run, "files": files, "listing_sha256": sha256(self.paths.path)}
        # Parts of an earlier run do not fit: the files may have changed since it read them.
        content["begun"] = secrets.token_hex(8)
        content["sha256"] = _digest(content)
        write_bytes(self._plan, f"{json.dumps(content, indent=2)}\n".encode())

    def resume(self, run: dict[str, Any]) -> int | None:
        """Return how many files the run is over; None if it has not begun.

        Args:
            run: what it is of, as plain values.

        Raises:
            UsageError: the parts are of another run, or what it goes on from is damaged.
        """
        if not self._plan.exists():
            return None
        plan = self._read_plan()
        require_same(plan["run"], run, f"the run in {self.folder}", "another --out")
        listing = self.paths.path
        if not listing.is_file() or sha256(listing) != plan["listing_sha256"]:
            raise self._damage("listing")
        return int(plan["files"])

    def finish(self, result: "Result") -> None:
        """Record what was written, before it is renamed to `out`."""
        write_bytes(self._result, msgspec.json.encode(result))

    def result(self, run: dict[str, Any]) -> "Result | None":
        """Return what was written of the run that `out` is the file of; None if it is of none.

        Raises:
            UsageError: it is of another run.
        """
        try:
            found = msgspec.json.decode(self._result.read_bytes(), type=Result)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        require_same(found.run, run, f"the run in {self.folder}", "another --out")
        return found if found.written == identity(self.out) else None

    def plan_sha256(self) -> str:
        """Return what tells this run from any other.

        Raises:
            UsageError: the plan is damaged.
        """
        return str(self._read_plan()["sha256"])

    @property
    def _plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def _result(self) -> Path:
        return self.folder / "result.json"

    def _read_plan(self) -> dict[str, Any]:
        try:
            content = dict(json.loads(self._plan.read_bytes()) if self._plan.is_file() else {})
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise self._damage("plan") from error
        if content.get("sha256") != _digest(content):
            raise self._damage("plan")
        return content

    def _damage(self, what: str) -> UsageError:
        return UsageError(
            f"the {what} in {self.folder} is missing or damaged: remove that folder to begin anew, "
            "or choose another --out"
        )

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
        """Remove the folder, what the result is last; what is not of a run stays."""
        for pattern in _OURS:
            for path in self.folder.glob(pattern):
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()


def _digest(plan: dict[str, Any]) -> str:
    """Return the hash of all else that a plan says."""
    rest = {name: value for name, value in plan.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

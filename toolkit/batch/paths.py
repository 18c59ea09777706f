"""Which files a run is over: found in the order of their paths, frozen in one small file.

Nothing here holds more than a shard of paths and the names of the folders on the way to it,
however many files there are. Paths are bytes, relative to the folder, as the file system gives
them.
"""

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from toolkit.errors import DataError
from toolkit.extras import require
from toolkit.files import replacing

SHARD = 256
"""Files that are graded and written together: a few minutes of the slowest."""
_SHARDS_IN_A_GROUP = 16


def split(source: str) -> tuple[Path, str]:
    """Return the folder of a folder, file or pattern, and the pattern beneath it.

    In a pattern, `*`, `?` and `[...]` stand for a part of a name, `**` for any folders, none too;
    not so in the name of a folder that is there, such as `x [2024]`.

    Raises:
        DataError: there is no such file or folder.
    """
    path = Path(source)
    if path.is_dir():
        return path, "**/*"
    if path.is_file():
        return path.parent, glob.escape(path.name)
    fixed = next((i for i, part in enumerate(path.parts) if _stands_for_others(path, i)), None)
    folder = Path(*path.parts[:fixed])
    if fixed is None or not folder.is_dir():
        raise DataError(f"no folder at {folder}: check the path")
    return folder, "/".join(path.parts[fixed:])


def _stands_for_others(path: Path, index: int) -> bool:
    return glob.has_magic(path.parts[index]) and not Path(*path.parts[: index + 1]).is_dir()


def scan(folder: Path, pattern: str, leave_out: Iterable[str] = ()) -> Iterator[bytes]:
    """Yield the paths of the files beneath `folder` that match, in the order of their bytes.

    Hidden files and folders are left out. Links are followed, but not to a folder that the link
    lies in: that one is being listed already. A folder that cannot be listed comes as a path of
    its own, with a slash at its end.

    Args:
        folder: where to look.
        pattern: as `split` gives it.
        leave_out: names that are left out, wherever they are.
    """
    steps = _Steps(pattern)
    hidden = {os.fsencode(name) for name in leave_out}
    root = os.fsencode(folder) + b"/"

    def entries(path: bytes) -> Iterator[bytes]:
        names = _names(os.scandir(root + path))
        return iter(sorted(name for name in names if name.rstrip(b"/") not in hidden))

    stack = [(b"", entries(b""), steps.start, _identity(root))]
    while stack:
        prefix, names, places, _ = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
        elif not name.endswith(b"/"):
            if steps.match(places, name):
                yield prefix + name
        elif inner := steps.into(places, name[:-1]):
            path = prefix + name
            try:
                identity = _identity(root + path)
                if all(identity != above for *_, above in stack):
                    stack.append((path, entries(path), inner, identity))
            except OSError:
                yield path


class _Steps:
    """A pattern, step by step. A place is the number of the step that a name must match."""

    def __init__(self, pattern: str) -> None:
        steps = pattern.split("/")
        if steps[-1] == "**":
            steps.append("*")
        self._steps = [
            None if step == "**" else re.compile(fnmatch.translate(step)) for step in steps
        ]
        self.start = self._spread({0})

    def match(self, places: frozenset[int], name: bytes) -> bool:
        """Return whether a file's name ends the pattern."""
        return len(self._steps) - 1 in places and self._fits(len(self._steps) - 1, name)

    def into(self, places: frozenset[int], name: bytes) -> frozenset[int]:
        """Return the places in a folder of that name: none if nothing beneath it can match."""
        last = len(self._steps) - 1
        stay = {place for place in places if self._steps[place] is None}
        return self._spread(stay | {p + 1 for p in places if p < last and self._fits(p, name)})

    def _fits(self, place: int, name: bytes) -> bool:
        step = self._steps[place]
        return step is not None and step.match(os.fsdecode(name)) is not None

    def _spread(self, places: set[int]) -> frozenset[int]:
        # `**` may stand for no folder at all.
        for place in range(len(self._steps)):
            if place in places and self._steps[place] is None:
                places = places | {place + 1}
        return frozenset(places)


def _identity(path: bytes) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _names(found: Iterator["os.DirEntry[bytes]"]) -> Iterator[bytes]:
    """Names of files, of links to nowhere and, with a slash at their end, of folders.

    With the slash, names in order give paths in order. Pipes, sockets and devices, by whatever
    link, are left out: to open one may take for ever.
    """
    for entry in found:
        if entry.name.startswith(b"."):
            continue
        try:
            folder, file = entry.is_dir(), entry.is_file()
        except OSError:
            folder, file = False, True
        if folder:
            yield entry.name + b"/"
        elif file or (entry.is_symlink() and not os.path.exists(entry.path)):
            yield entry.name


@dataclass(frozen=True)
class PathList:
    """The frozen paths of a run, in a Parquet file with a row group for every 16 shards.

    Attributes:
        path: of that file.
    """

    path: Path

    def freeze(self, paths: Iterable[bytes], on_listed: Callable[[int], None]) -> int:
        """Write the paths, and return how many there are; `on_listed` hears how far it is."""
        pyarrow, parquet = require("pyarrow", "batch"), require("pyarrow.parquet", "batch")
        paths, count = iter(paths), 0
        schema = pyarrow.schema([("path", pyarrow.binary())])
        with (
            replacing(self.path) as temporary,
            parquet.ParquetWriter(
                temporary,
                schema,
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,
                # Each path only as far as it differs from the one before.
                column_encoding={"path": "DELTA_BYTE_ARRAY"},
            ) as writer,
        ):
            while group := list(islice(paths, SHARD * _SHARDS_IN_A_GROUP)):
                writer.write_table(pyarrow.table([group], schema=schema))
                count += len(group)
                on_listed(count)
        return count

    def shards(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[bytes]]]:
        """Yield some shards' numbers with their paths."""
        group, paths = -1, []
        with require("pyarrow.parquet", "batch").ParquetFile(self.path) as file:
            for number in numbers:
                if group != number // _SHARDS_IN_A_GROUP:
                    group = number // _SHARDS_IN_A_GROUP
                    paths = file.read_row_group(group).column("path").to_pylist()
                start = number % _SHARDS_IN_A_GROUP * SHARD
                yield number, paths[start : start + SHARD]

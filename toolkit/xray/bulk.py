"""Many X-ray files: read on all cores, and with a cache only once."""

import hashlib
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ImageError, WorkerError
from toolkit.extras import versions
from toolkit.files import replacing, require_writable
from toolkit.processes import cores
from toolkit.xray.folders import XrayFile
from toolkit.xray.reading import SIZE, file_content, read_xray

Reading = NDArray[np.uint8] | ImageError
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BLOCK = 64
# Fewer are read before another process has begun.
_WORTH_A_PROCESS = 500
_DECODERS = ("numpy", "pillow", "simplejpeg", "pydicom")


def read_files(
    files: Iterable[XrayFile], cache: Path | None = None, shape: tuple[int, ...] = (SIZE, SIZE)
) -> Iterator[tuple[XrayFile, Reading]]:
    """Yield each file, in order, with its pixels, uint8 of a shape, or why it is refused.

    Args:
        files: whatever their contents.
        cache: a folder that keeps the pixels for the next time, under a hash of all the files'
            contents and of what decodes them; None for none. What lies there may be deleted.
        shape: (size, size), or (size, size, 3) in colour.

    Raises:
        UsageError: the cache cannot be written.
        WorkerError: a process that reads has died.
    """
    files = list(files)
    if cache is None:
        yield from _decoded(files, shape)
        return
    path = cache / f"{_contents_sha256(files, shape)}.npz"
    kept = _load(path, (len(files), *shape))
    if kept is None:
        require_writable(cache, "--cache")
        pixels, refused = np.zeros((len(files), *shape), np.uint8), []
        for place, (file, result) in enumerate(_decoded(files, shape)):
            if isinstance(result, ImageError):
                refused.append(place)
            else:
                pixels[place] = result
            yield file, result
        with replacing(path) as temporary:
            np.savez(temporary, pixels=pixels, refused=np.array(refused, np.int64))
        return
    pixels, again = kept[0], set(kept[1].tolist())
    for place, file in enumerate(files):
        yield file, _attempt(shape, file) if place in again else pixels[place]


def _decoded(
    files: Sequence[XrayFile], shape: tuple[int, ...]
) -> Iterator[tuple[XrayFile, Reading]]:
    blocks = [files[start : start + _BLOCK] for start in range(0, len(files), _BLOCK)]
    workers = min(cores(), len(files) // _WORTH_A_PROCESS)
    try:
        with _executor(workers) as pool:
            read = _in_order(pool, partial(_attempts, shape), blocks)
            for block, results in zip(blocks, read, strict=True):
                yield from zip(block, results, strict=True)
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process that reads X-rays has died: see whether there is enough memory"
        ) from error


def _executor(workers: int) -> Executor:
    # Most of reading an X-ray is done with the interpreter's lock held.
    if workers > 1:
        # The parent decides what comes of Ctrl-C, which reaches the whole group of processes.
        ignored = (signal.SIGINT, signal.SIG_IGN)
        return ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, ignored)
    return ThreadPoolExecutor()


def _in_order(
    pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Yield what a function gives of each item, with few more in work than are being used."""
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * cores():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()


def _attempts(shape: tuple[int, ...], files: Sequence[XrayFile]) -> list[Reading]:
    return [_attempt(shape, file) for file in files]


def _attempt(shape: tuple[int, ...], file: XrayFile) -> Reading:
    try:
        return read_xray(file.path, *shape[1:])
    except ImageError as error:
        return error


def _contents_sha256(files: Sequence[XrayFile], shape: tuple[int, ...]) -> str:
    """Return a hash of what the pixels of these files depend on."""
    digest = hashlib.sha256(repr((versions(*_DECODERS), shape)).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    with ThreadPoolExecutor() as pool:
        for each in pool.map(_content_sha256, files):
            digest.update(each)
    return digest.hexdigest()


def _content_sha256(file: XrayFile) -> bytes:
    try:
        return hashlib.sha256(file_content(file.path)).digest()
    except ImageError:
        return b"unreadable"


def _load(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Return pixels and the places of what was refused; None where they are not there, whole."""
    try:
        with np.load(path) as kept:
            pixels, refused = kept["pixels"], kept["refused"]
    except Exception:  # a damaged archive surfaces as almost any
        return None
    fits = pixels.shape == shape and pixels.dtype == np.uint8
    return (pixels, refused) if fits else None

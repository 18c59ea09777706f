"""Files written whole or not at all, and the hash that identifies them."""

import errno
import hashlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from toolkit.errors import UsageError

_LONGEST_OWNER = 200
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def name_bytes(name: str) -> bytes:
    """Return a file's name, or several, as the bytes that the disk has, on any machine."""
    return name.encode("utf-8", "surrogateescape")


def link_target(path: Path) -> Path:
    """Return what is to be replaced so that `path`, where it is a link, stays one.

    Raises:
        UsageError: it leads to a write-protected file: stores of large files keep theirs so, under
            their hashes.
    """
    # Unlike pathlib's, these two raise for no name, however long, and for no circle of links.
    if not os.path.islink(path):
        return path
    target = Path(os.path.realpath(path))
    with suppress(OSError):
        if not target.stat().st_mode & 0o222:
            raise UsageError(f"cannot write {path}: it is a link to a write-protected file")
    return target


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The temporary file keeps the suffix, is flushed to disk before the rename, and is removed
    when the block raises. Where `path` is a link it stays one, and what it leads to is replaced. A
    full disk, a read-only folder and a link to a write-protected file are a `UsageError`.
    """
    named, path = path, link_target(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        space = "free some space or " if error.errno in _FULL else ""
        raise UsageError(f"cannot write {named}: {reason}; {space}choose another folder") from error
    finally:
        # Where the folder is a file or the name too long, there is nothing to remove.
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def sole_user(path: Path, what: str, otherwise: str) -> Iterator[None]:
    """Keep other processes out of the block, by a file that is there as long as it runs.

    Args:
        path: of the file; it says which process is in the block.
        what: is used, such as `the model 'm'`.
        otherwise: what another process can do instead.

    Raises:
        UsageError: another process is in the block, or the file cannot be written.
    """
    import fcntl

    whose = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
    with ExitStack() as stack:
        try:
            missing = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            # If nothing is written, the folders are removed again, the innermost first.
            for each in reversed(missing):
                stack.callback(_remove_empty, each)
            lock = stack.enter_context(path.open("a+"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed the file as it left; a lock on that one is no lock.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                raise BlockingIOError
            lock.truncate(0)
            lock.write(whose)
            lock.flush()
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read(_LONGEST_OWNER) or "another process"
            raise UsageError(f"{what} is in use by {owner}: {otherwise}") from None
        except OSError as error:
            raise UsageError(
                f"cannot write to {path.parent}: {error.strerror}; choose another folder"
            ) from error
        stack.callback(path.unlink, missing_ok=True)
        yield


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is done: its files belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    # A mask would not do: another thread, such as one of PyTorch's, would be given the signal.
    former = {
        each: signal.signal(each, lambda number, _: heard.append(number))
        for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
        for number in heard[:1]:
            signal.raise_signal(number)


def require_parent(path: Path, option: str = "--out") -> None:
    """Check that the folder in which something is to be is there: none is made by mistake.

    Args:
        path: of a file or folder that may be there or not.
        option: of the command line that names it.

    Raises:
        UsageError: there is no such folder.
    """
    if not os.path.isdir(path.parent):
        raise UsageError(
            f"{path} cannot be: there is no folder {path.parent}; make it, or correct {option}"
        )


def require_writable(folder: Path, option: str = "--logs") -> None:
    """Check that files can be made in a folder, or in the one that it would be made in.

    Args:
        folder: that is to be written to.
        option: of the command line that names another.

    Raises:
        UsageError: they cannot.
    """
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    probe = there / f".{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with {option}"
        ) from error

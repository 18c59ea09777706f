"""Where studies are kept: a journal file, PostgreSQL, MySQL, or Optuna's gRPC proxy."""

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from toolkit.errors import MissingExtraError, UsageError
from toolkit.extras import require

_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql"}
_GRPC_TIMEOUT = 10.0
_TRIES = 3


def public_name(location: str) -> str:
    """Return a storage's path, or its URL without user and password."""
    if "://" not in location:
        return location
    url = urlsplit(location)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def open_storage(location: str, *, make: bool) -> BaseStorage:
    """Return the storage at a path or URL.

    Args:
        location: a file, `postgresql://`, `mysql://` or `grpc://HOST:PORT`.
        make: whether a journal that is not there is made.

    Raises:
        UsageError: it cannot be reached or written, or is no such storage.
        MissingExtraError: the database's driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in location:
        return _journal(Path(location).absolute(), make)
    try:
        scheme = urlsplit(location).scheme
    except ValueError:
        # It may hold a password, so it is not said.
        raise UsageError("--storage is not a URL: its host cannot be read") from None
    if scheme == "grpc":
        return _grpc(location)
    if scheme.partition("+")[0] in _DRIVERS:
        return _database(location, scheme)
    raise UsageError(
        f"--storage {public_name(location)} is of no kind that several workers can share: give a "
        "journal's path, postgresql://, mysql:// or grpc://HOST:PORT"
    )


@contextmanager
def going_away(location: str) -> Iterator[None]:
    """Turn what a storage raises that is lost in the middle of the work into one of our errors.

    Raises:
        UsageError: the storage was lost.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "grpc", "optuna"):
            raise
        raise UsageError(f"{_unreachable(location, error)}; the same command goes on") from error


def _journal(path: Path, make: bool) -> BaseStorage:
    if not make and not path.exists():
        raise UsageError(f"no studies at {path}: run `toolkit tune`, or name others with --storage")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(str(path))
        # Whoever only reads need not be able to write.
        if path.exists() and (make or os.access(path, os.W_OK)):
            _mend(path, lock)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        storage.get_all_studies()
        return storage
    except OSError as error:
        raise UsageError(
            f"cannot use the journal {path}: {error.strerror}; name another with --storage"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise UsageError(
            f"{path} is not a journal of Optuna, or is damaged: name another with --storage"
        ) from error


def _mend(path: Path, lock: JournalFileOpenLock) -> None:
    """Cut off a last line that a writer did not finish: no reader would go past it."""
    with path.open("rb+") as stream:
        first = stream.readline()
        # What is no journal is never written to.
        if first and "op_code" not in json.loads(first):
            raise ValueError("no operation")
        if _ends_whole(stream):
            return
        lock.acquire()
        try:
            if not _ends_whole(stream):
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        finally:
            lock.release()


def _ends_whole(stream: BinaryIO) -> bool:
    if not stream.seek(0, os.SEEK_END):
        return True
    stream.seek(-1, os.SEEK_END)
    return stream.read() == b"\n"


def _grpc(location: str) -> BaseStorage:
    require("grpc", "train")
    from optuna.storages import GrpcStorageProxy

    url = urlsplit(location)
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UsageError(f"--storage {public_name(location)} is not grpc://HOST:PORT")
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        storage = GrpcStorageProxy(host=host, port=port)
    try:
        storage.wait_server_ready(timeout=_GRPC_TIMEOUT)
    except ConnectionError as error:
        raise UsageError(
            f"no Optuna proxy answers at {public_name(location)} within {_GRPC_TIMEOUT:.0f} s: "
            "start it, or name another --storage"
        ) from error
    return storage


def _database(location: str, scheme: str) -> BaseStorage:
    dialect = scheme.partition("+")[0]
    if urlsplit(location).netloc.count("@") > 1:
        # Drivers would take the rest of the password for the host, and say it.
        raise UsageError(f"--storage {public_name(location)}: write @ in a password as %40")
    if scheme == dialect:
        require(_DRIVERS[dialect], dialect)
        location = location.replace(f"{scheme}://", f"{dialect}+{_DRIVERS[dialect]}://", 1)
    from sqlalchemy.exc import SQLAlchemyError

    for attempt in range(1, _TRIES + 1):
        try:
            return RDBStorage(location, engine_kwargs={"pool_pre_ping": True, "pool_size": 2})
        except ImportError as error:
            raise MissingExtraError(
                f"{public_name(location)} needs a driver that is not installed: {error}"
            ) from error
        except (SQLAlchemyError, ValueError) as error:
            # Two that make the tables of an empty database at once trip over each other.
            if attempt == _TRIES:
                raise UsageError(_unreachable(location, error)) from error
            time.sleep(0.5 * attempt)
    raise AssertionError


def _unreachable(location: str, error: Exception) -> str:
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    return f"the storage {public_name(location)} cannot be used: {reason}"

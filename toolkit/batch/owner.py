"""The one process that runs the model on the card, for the processes that read the files."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.batch.worker import Job
from toolkit.errors import ToolkitError, WorkerError
from toolkit.processes import ENDED, READY, Workers

_AGAIN_S = 10.0


@contextmanager
def owned(job: Job) -> Iterator[Job]:
    """Begin the process that does the running of a job, and begin it anew where it dies.

    Yields:
        The job for those that read the files.
    """
    ended = threading.Event()
    with TemporaryDirectory(prefix="toolkit-") as folder:
        address = str(Path(folder) / "owner")
        with Workers(1, _own, job, address) as owners:
            minder = threading.Thread(target=_mind, args=(owners, ended), name="owner")
            minder.start()
            try:
                yield replace(job, owner=address)
            finally:
                ended.set()
                minder.join()


def _mind(owners: Workers, ended: threading.Event) -> None:
    # Where none can be begun, those that wait for it say so.
    with suppress(WorkerError):
        while not ended.is_set():
            for owner, message in owners.listen():
                if message is ENDED and not ended.is_set():
                    owners.replace(owner)


def _own(pipe: Any, _index: int, job: Job, address: str) -> None:
    """Run what is handed over. The main function of the process."""
    from toolkit.runtime.engine import open_fixed_sizes
    from toolkit.runtime.owner import Owner, refuse

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(pipe,), daemon=True).start()
    try:
        predictor, _ = job.open(open_fixed_sizes)
    except ToolkitError as error:
        refuse(address, str(error), _AGAIN_S)
        raise SystemExit(error.exit_code) from None
    owner = Owner(address, predictor.engine, predictor.sha256)
    pipe.send(READY)
    try:
        owner.serve()
    except ToolkitError as error:
        # Who waits for it tries again with the one that takes its place.
        print(f"warning: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


def _follow(pipe: Any) -> None:
    """End this process with the one that minds it."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)

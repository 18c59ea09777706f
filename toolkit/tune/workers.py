"""Runs a study: worker processes that each train one trial after another, and their supervisor."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
import torch

from toolkit.errors import ToolkitError
from toolkit.networks.loading import STUDY, Definition
from toolkit.processes import POLL_SECONDS, READY, Workers
from toolkit.train.dataset import Dataset
from toolkit.train.recipes import PRESETS
from toolkit.train.threads import share_cores
from toolkit.tune.ledger import INTERRUPTED, LOST, Ledger, open_ledger
from toolkit.tune.space import SPACE
from toolkit.tune.storage import going_away, open_storage
from toolkit.tune.trial import TrialPlan, run_trial


@dataclass(frozen=True)
class Tuning:
    """Everything that the processes of a study on one machine share.

    Attributes:
        storage: path or URL, as `toolkit.tune.storage.open_storage` takes it.
        study: its name.
        trials: how many the study shall come to, on all machines together.
        plan: of each trial.
        seed: of the study.
        workers: processes on this machine.
        device: `cpu` or `cuda`.
        deadline: `time.time()` after which no trial begins; None for none.
        setup: what must be the same on every machine, as `setup` returns it.
    """

    storage: str
    study: str
    trials: int
    plan: TrialPlan
    seed: int
    workers: int
    device: str
    deadline: float | None
    setup: dict[str, Any]

    def open(self) -> Ledger:
        """Open the study in a storage of this process's own.

        Raises:
            UsageError: the storage cannot be used, or the study was made with another setup.
        """
        storage = open_storage(self.storage, make=True)
        return open_ledger(storage, self.study, self.setup, self.trials, self.seed)

    def over(self) -> bool:
        """Return whether the time for beginning trials is over."""
        return self.deadline is not None and time.time() >= self.deadline


def setup(
    dataset: Dataset, plan: TrialPlan, seed: int, definition: Definition = STUDY
) -> dict[str, Any]:
    """Return what must be the same for every worker of a study, as plain values."""
    if definition.source:
        return {
            "preset": "own",
            "network": definition.sha256,
            "epochs": plan.epochs,
            "seed": seed,
            "stale_after": plan.stale_after,
            **dataset.identity(),
        }
    return {
        "preset": plan.preset,
        "search space": {name: repr(range_) for name, range_ in SPACE.items()},
        "epochs": plan.epochs,
        "dropout_epochs": PRESETS[plan.preset].dropout_epochs,
        "seed": seed,
        "stale_after": plan.stale_after,
        **dataset.identity(),
    }


def run(tuning: Tuning, dataset: Dataset, on_change: Callable[[Ledger], None]) -> Ledger:
    """Run trials until the study is complete, or until its time is over.

    A worker that dies is replaced, and what it was running is run again. On an interruption the
    running trials are given up, and will be the first to run again.

    Args:
        tuning: what to run.
        dataset: with parts `train` and `val`.
        on_change: called every half second or so.

    Raises:
        UsageError: as `Tuning.open`, or the storage was lost, or a log cannot be written.
        DefinitionError: the network's definition can no longer be read.
        WorkerError: workers die as soon as they are started.
    """
    ledger = tuning.open()
    with (
        TemporaryDirectory(prefix="toolkit-tune-") as folder,
        going_away(tuning.storage),
        _sigterm_interrupts(),
    ):
        # All workers map one file, so that the X-rays are in memory once.
        pixels = Path(folder) / "pixels.npy"
        np.save(pixels, dataset.pixels.numpy())
        bare = replace(dataset, pixels=torch.empty(0, dtype=torch.uint8), skipped=())
        with Workers(tuning.workers, _work, tuning, bare, pixels) as workers:
            try:
                while workers:
                    _supervise(workers, ledger)
                    for number in ledger.give_up_stale(tuning.plan.stale_after):
                        print(f"trial {number} was lost with its worker", file=sys.stderr)
                    on_change(ledger)
            except BaseException:
                workers.end()
                # Where the storage is what went wrong, the trials go stale.
                with suppress(Exception):
                    for worker in workers:
                        ledger.give_up_worker(worker.process.name, INTERRUPTED)
                raise
    on_change(ledger)
    return ledger


def _supervise(workers: Workers, ledger: Ledger) -> None:
    """Wait a moment, and replace the workers that died; one that is done just ends.

    Raises:
        ToolkitError: what a worker cannot go on for, and no other could.
    """
    for worker, message in workers.listen():
        if isinstance(message, ToolkitError):
            raise message
        if worker.process.exitcode:
            for number in ledger.give_up_worker(worker.process.name, LOST):
                print(f"trial {number} will be run again", file=sys.stderr)
            workers.replace(worker)


def _work(pipe: Connection, index: int, tuning: Tuning, dataset: Dataset, pixels: Path) -> None:
    """Run trials until there is none left. The main function of a worker process."""
    signal.signal(signal.SIGTERM, _stop)
    share_cores(tuning.workers)
    mapped = np.load(pixels, mmap_mode="c")
    dataset = replace(dataset, pixels=torch.from_numpy(mapped))
    try:
        _run_trials(pipe, tuning, dataset, _device(tuning.device, index))
    except ToolkitError as error:
        pipe.send(error)
    finally:
        # It ends by itself now; what `_stop` raised meanwhile would be a traceback.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _run_trials(pipe: Connection, tuning: Tuning, dataset: Dataset, device: torch.device) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    ledger = tuning.open()
    while not ledger.complete() and not tuning.over() and parent.is_alive():
        claim = ledger.claim(multiprocessing.current_process().name)
        if claim:
            # A worker that dies before it says so would die again, and is not replaced.
            pipe.send(READY)
            run_trial(ledger.study, claim, tuning.plan, dataset, device)
        else:
            # Other workers run the last trials. Any that is lost will be run here.
            time.sleep(POLL_SECONDS)


def _device(name: str, index: int) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", index % torch.cuda.device_count())


def _stop(signum: int, _frame: FrameType | None) -> None:
    # An exception, so that no lock of a journal is left behind. It may come from elsewhere than
    # the supervisor, who must not take it for a worker that is done.
    raise SystemExit(128 + signum)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM, by which schedulers end a job, the same as Ctrl-C."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

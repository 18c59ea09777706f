"""Runs a study: worker processes that each train one trial after another, and their supervisor."""

import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
import torch

from toolkit.errors import TrainingError
from toolkit.train.dataset import Dataset
from toolkit.train.recipes import PRESETS
from toolkit.tune.ledger import INTERRUPTED, LOST, Ledger, opened
from toolkit.tune.space import SPACE
from toolkit.tune.storage import going_away, open_storage
from toolkit.tune.trial import TrialPlan, run_trial

_POLL_SECONDS = 0.5
_STOP_SECONDS = 15.0
_EARLY_DEATHS = 3


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
        return opened(storage, self.study, self.setup, self.trials, self.seed)

    def over(self) -> bool:
        """Return whether the time for beginning trials is over."""
        return self.deadline is not None and time.time() >= self.deadline


def setup(dataset: Dataset, plan: TrialPlan, seed: int) -> dict[str, Any]:
    """Return what must be the same for every worker of a study, as plain values."""
    record = dataset.record()
    return {
        "preset": plan.preset,
        "search space": {name: repr(each) for name, each in SPACE.items()},
        "epochs": plan.epochs,
        "dropout_epochs": PRESETS[plan.preset].dropout_epochs,
        "seed": seed,
        "stale_after": plan.stale_after,
        "labels": dataset.label_map.name,
        "split": dataset.split,
        "data": record.content_sha256,
        "parts": record.part_sha256,
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
        UsageError: as `Tuning.open`, or the storage was lost.
        TrainingError: workers die as soon as they are started.
    """
    ledger = tuning.open()
    with (
        TemporaryDirectory(prefix="toolkit-tune-") as folder,
        going_away(tuning.storage),
        _sigterm_interrupts(),
    ):
        crew = _Crew(tuning, dataset, Path(folder))
        try:
            while crew.working(ledger):
                for number in ledger.give_up_stale(tuning.plan.stale_after):
                    print(f"trial {number} was lost with its worker", file=sys.stderr)
                on_change(ledger)
        except BaseException:
            crew.stop()
            # Where the storage is what went wrong, the trials go stale.
            with suppress(Exception):
                for worker in crew.workers:
                    ledger.give_up_worker(worker, INTERRUPTED)
            raise
    on_change(ledger)
    return ledger


class _Crew:
    """The worker processes of this machine, by their names."""

    def __init__(self, tuning: Tuning, dataset: Dataset, folder: Path) -> None:
        self._tuning = tuning
        # All workers map one file, so that the X-rays are in memory once.
        self._pixels = folder / "pixels.npy"
        np.save(self._pixels, dataset.pixels.numpy())
        self._dataset = replace(dataset, pixels=torch.empty(0, dtype=torch.uint8), skipped=())
        self._early_deaths = 0
        self.workers: dict[str, SpawnProcess] = {}
        for index in range(tuning.workers):
            self._start(index)

    def working(self, ledger: Ledger) -> bool:
        """Wait a moment, replace who died, and return whether any worker is at work."""
        wait([each.sentinel for each in self.workers.values()], timeout=_POLL_SECONDS)
        for name, process in list(self.workers.items()):
            if process.exitcode is None:
                continue
            del self.workers[name]
            if process.exitcode:
                given_up = ledger.give_up_worker(name, LOST)
                print(_death(process.exitcode, given_up), file=sys.stderr)
                # One that dies before it has begun anything would die again.
                self._early_deaths = 0 if given_up else self._early_deaths + 1
                if self._early_deaths == _EARLY_DEATHS:
                    raise TrainingError("workers die as soon as they start: see their messages")
                self._start(int(name.partition("-")[0]))
        return bool(self.workers)

    def stop(self) -> None:
        """Ask every worker to stop, and end it if it does not."""
        for process in self.workers.values():
            process.terminate()
        for process in self.workers.values():
            process.join(_STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def _start(self, index: int) -> None:
        name = f"{index}-{os.uname().nodename}-{secrets.token_hex(4)}"
        process = multiprocessing.get_context("spawn").Process(
            target=_work,
            args=(self._tuning, self._dataset, self._pixels, name, index),
            daemon=True,
        )
        # Ctrl-C reaches the whole group of processes; the supervisor decides what comes of it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        self.workers[name] = process


def _death(code: int, given_up: list[int]) -> str:
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    lost = f"; trial {given_up[0]} will be run again" if given_up else ""
    return f"a worker ended {how}{lost}"


def _work(tuning: Tuning, dataset: Dataset, pixels: Path, name: str, index: int) -> None:
    """Run trials until there is none left. The main function of a worker process."""
    signal.signal(signal.SIGTERM, _stop)
    parent = multiprocessing.parent_process()
    assert parent is not None
    _share_cores(tuning.workers)
    mapped = np.load(pixels, mmap_mode="c")
    dataset = replace(dataset, pixels=torch.from_numpy(mapped))
    device = _device(tuning.device, index)
    ledger = tuning.open()
    while not ledger.complete() and not tuning.over() and parent.is_alive():
        claim = ledger.claim(name)
        if claim:
            run_trial(ledger.study, claim, tuning.plan, dataset, device)
        else:
            # Others run the last ones: should they be lost, they are run here.
            time.sleep(_POLL_SECONDS)


def _share_cores(workers: int) -> None:
    if workers > 1:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), _cores() // workers)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(name: str, index: int) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", index % torch.cuda.device_count())


def _stop(_signum: int, _frame: FrameType | None) -> None:
    # An exception, so that no lock of a journal is left behind.
    raise SystemExit(0)


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

"""Who runs which trial of a study, and which trials count: the same answer on every machine.

A study has room for so many trials. A trial takes a place while it waits, runs, has finished,
or has failed by itself. One that was lost with its worker, interrupted, or begun beyond the last
place takes none, so that another is run in its stead.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from toolkit.errors import UsageError
from toolkit.resume import require_same

LOST = "lost with its worker"
LOST_AGAIN = "lost with its worker, twice"
INTERRUPTED = "interrupted"
SURPLUS = "begun when there was no place left"
_UNCOUNTED = {LOST, INTERRUPTED, SURPLUS}

FAILURE = "failure"
HEARTBEAT = "heartbeat"
SEED = "seed"
WORKER = "worker"
_SETUP = "setup"
_LOSSES = "losses"


@dataclass(frozen=True)
class Claim:
    """A trial that this worker may run, and the seed that decides all that is random in it."""

    trial: Trial
    seed: int


class Ledger:
    """A study, and the bookkeeping of its trials.

    Args:
        study: as `open_ledger` or `find_study` returns it.
        storage: that it lies in.
        places: how many trials it shall come to.
        seed: of the study.
    """

    def __init__(self, study: Study, storage: BaseStorage, places: int, seed: int) -> None:
        self.study = study
        self.places = places
        self._storage = storage
        self._seed = seed
        self._beats: dict[int, tuple[Any, float]] = {}

    def trials(self) -> list[FrozenTrial]:
        """Return every trial, by number."""
        return self.study.get_trials(deepcopy=False)

    def counted_trials(self) -> list[FrozenTrial]:
        """Return the trials that take a place, by number."""
        return counted_trials(self.trials())

    def complete(self) -> bool:
        """Return whether every place is taken by a trial that has ended."""
        return sum(trial.state.is_finished() for trial in self.counted_trials()) >= self.places

    def claim(self, worker: str) -> Claim | None:
        """Take a trial to run: one that waits to be retried, or a new one.

        Args:
            worker: a word that no other worker has.

        Returns:
            None where every place is taken.
        """
        now = self.counted_trials()
        waiting = any(trial.state == TrialState.WAITING for trial in now)
        if len(now) >= self.places and not waiting:
            return None
        trial = self.study.ask()
        # Others may have come first: numbers are given out one at a time, so all agree on this.
        place = sum(other.number < trial.number for other in self.counted_trials())
        if place >= self.places:
            self.give_up(self._frozen(trial), SURPLUS)
            return None
        trial.set_user_attr(WORKER, worker)
        seed = self._seed_of(self._frozen(trial))
        trial.set_user_attr(SEED, seed)
        # What a trial is given depends on the trials before it and on its seed alone, so that a
        # study which was interrupted goes on as if it had not been.
        self.study.sampler = sampler(seed)
        return Claim(trial, seed)

    def give_up(self, trial: FrozenTrial, reason: str) -> bool:
        """Mark a running trial as failed; one that was lost or interrupted is to be run again.

        Returns:
            Whether it was still running: of several that give it up, one is told so.
        """
        losses = trial.user_attrs.get(_LOSSES, 0)
        if reason == LOST and losses:
            reason = LOST_AGAIN
        identity = trial._trial_id
        try:
            self._storage.set_trial_user_attr(identity, FAILURE, reason)
            if not self._storage.set_trial_state_values(identity, TrialState.FAIL):
                return False
        except UpdateFinishedTrialError:
            return False
        if reason in (LOST, INTERRUPTED):
            attributes = {SEED: self._seed_of(trial), _LOSSES: losses + (reason == LOST)}
            self.study.enqueue_trial(trial.params, user_attrs=attributes)
        return True

    def give_up_worker(self, worker: str, reason: str) -> list[int]:
        """Give up what a worker was running; return the numbers of those trials."""
        running = [
            trial for trial in _running(self.trials()) if trial.user_attrs.get(WORKER) == worker
        ]
        return [trial.number for trial in running if self.give_up(trial, reason)]

    def give_up_stale(self, stale_after: float) -> list[int]:
        """Give up trials whose heartbeat this process has not seen change for so many seconds.

        Clocks of different machines are never compared. Call it often.
        """
        now = time.monotonic()
        given_up = []
        for trial in _running(self.trials()):
            beat = trial.user_attrs.get(HEARTBEAT)
            known, since = self._beats.get(trial.number, (None, now))
            if trial.number not in self._beats or known != beat:
                self._beats[trial.number] = (beat, now)
            elif now - since >= stale_after and self.give_up(trial, LOST):
                given_up.append(trial.number)
        return given_up

    def _seed_of(self, trial: FrozenTrial) -> int:
        """Return a seed that only a trial and its retries have, whoever asks and whenever."""
        if _LOSSES in trial.user_attrs:
            return int(trial.user_attrs[SEED])
        # Counting the trials before it that are no retries: that number stays the same when
        # another trial is lost, so that every worker works out the same seed.
        order = sum(
            other.number < trial.number and _LOSSES not in other.user_attrs
            for other in self.trials()
        )
        return int(np.random.SeedSequence([self._seed, order]).generate_state(1)[0])

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._storage.get_trial(trial._trial_id)


def counted_trials(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return those trials that count as one of the study's."""
    return [
        trial
        for trial in trials
        if trial.state != TrialState.FAIL or trial.user_attrs.get(FAILURE) not in _UNCOUNTED
    ]


def sampler(seed: int) -> TPESampler:
    """Return the study's sampler: what Optuna's default was when the study ran."""
    return TPESampler(multivariate=False, constant_liar=False, seed=seed)


def open_ledger(
    storage: BaseStorage, name: str, setup: dict[str, Any], places: int, seed: int
) -> Ledger:
    """Open a study, or make it.

    Args:
        storage: where it lies, or will.
        name: of the study.
        setup: all that must be the same for every worker and every resumption; plain values.
        places: how many trials it shall come to.
        seed: of the study.

    Raises:
        UsageError: the study was made with another setup, or by another program.
    """
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
    if _SETUP not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            raise UsageError(
                f"the study {name!r} was not made by `toolkit tune`: give another with --study"
            )
        study.set_user_attr(_SETUP, setup)
    otherwise = "another name with --study"
    require_same(study.user_attrs[_SETUP], setup, f"the study {name!r}", otherwise)
    return Ledger(study, storage, places, seed)


def find_study(storage: BaseStorage, name: str) -> Study:
    """Return a study that is there.

    Raises:
        UsageError: there is none of that name; those that are there are named.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
        raise UsageError(f"no study is called {name!r}: there are {names}") from None


def setup_of(study: Study) -> dict[str, Any]:
    """Return what a study was made with, as `open_ledger` was given it; empty of a foreign one."""
    return dict(study.user_attrs.get(_SETUP, {}))


def _running(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.RUNNING]

"""One trial of a tuning: trains until it overfits, and tells the study what came of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial, TrialState

from toolkit.errors import DefinitionError, TrainingError, is_out_of_memory
from toolkit.networks.loading import load
from toolkit.train.dataset import Dataset
from toolkit.train.tensorboard import Log
from toolkit.train.training import Training
from toolkit.tune.ledger import FAILURE, HEARTBEAT, Claim
from toolkit.tune.objective import overfits, score
from toolkit.tune.space import (
    TRIAL_LR,
    own_config,
    own_trial_recipe,
    suggest,
    trial_recipe,
)

DIVERGED = "diverged"
OUT_OF_MEMORY = "out of memory"
TRAINING_ACCURACY = "training_accuracy"
VALIDATION_ACCURACY = "validation_accuracy"
EPOCHS = "epochs"
# Several may be late before a trial is taken for lost.
_BEATS = 6


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a study have in common.

    Attributes:
        preset: `study` or `default`.
        epochs: most epochs of a trial.
        logs: folder of the TensorBoard runs, one for each trial.
        stale_after: seconds without a heartbeat after which a trial is lost.
        network: of one's own, as `toolkit.networks.loading.load` takes it; None for the study's.
    """

    preset: str
    epochs: int
    logs: Path
    stale_after: float
    network: str | None = None


def run_trial(
    study: Study, claim: Claim, plan: TrialPlan, dataset: Dataset, device: torch.device
) -> None:
    """Train one trial to its end and record its score, or why it failed.

    A trial that diverges, runs out of memory, or whose settings give no network that can be
    trained, is a failed one, and no error. One that was given up by others meanwhile leaves no
    trace.

    Raises:
        DefinitionError: the network's definition cannot be read.
        UsageError: the log cannot be written.
    """
    trial = claim.trial
    definition = load(plan.network)
    folder = plan.logs / f"{trial.number:03}"
    failure = None
    with _heartbeat(trial, plan.stale_after / _BEATS):
        try:
            parameters = own_config(definition, trial) if plan.network else suggest(trial)
            with Log(folder, 0) as log:
                recipe = (
                    own_trial_recipe(definition, parameters, plan.epochs)
                    if plan.network
                    else trial_recipe(plan.preset, parameters, plan.epochs)
                )
                training = Training(dataset, recipe, claim.seed, device, definition)
                outcome = _train(training, trial, log)
                settings = dict(parameters)
                if not plan.network:
                    settings |= {"initial_lr": TRIAL_LR, "reg_type": "L2"}
                log.add_hparams(settings, _metrics(outcome))
        except UpdateFinishedTrialError:
            return
        except DefinitionError as error:
            failure = str(error)
        except TrainingError:
            failure = DIVERGED
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = OUT_OF_MEMORY
    try:
        if failure:
            trial.set_user_attr(FAILURE, failure)
            study.tell(trial, state=TrialState.FAIL)
        else:
            for name, value in outcome.items():
                trial.set_user_attr(name, value)
            study.tell(trial, score(outcome[TRAINING_ACCURACY], outcome[VALIDATION_ACCURACY]))
    except (UpdateFinishedTrialError, ValueError):
        # Another worker gave this trial up just before; then its retry counts.
        if study.trials[trial.number].state == TrialState.RUNNING:
            raise


def _train(training: Training, trial: Trial, log: Log) -> dict[str, Any]:
    accuracies: tuple[list[float], list[float]] = [], []
    while training.epoch < training.recipe.epochs:
        epoch = training.advance()
        assert epoch.val_accuracy is not None
        accuracies[0].append(epoch.train_accuracy)
        accuracies[1].append(epoch.val_accuracy)
        log.add_epoch(epoch)
        trial.report(epoch.val_accuracy, epoch.epoch)
        if overfits(*accuracies):
            break
    return {
        TRAINING_ACCURACY: accuracies[0][-1],
        VALIDATION_ACCURACY: accuracies[1][-1],
        EPOCHS: training.epoch,
    }


@contextmanager
def _heartbeat(trial: Trial, seconds: float) -> Iterator[None]:
    """Change an attribute of the trial every so many seconds, as long as this process lives."""
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(seconds):
            count += 1
            try:
                trial.set_user_attr(HEARTBEAT, count)
            except UpdateFinishedTrialError:
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _metrics(outcome: dict[str, Any]) -> dict[str, float]:
    training, validation = outcome[TRAINING_ACCURACY], outcome[VALIDATION_ACCURACY]
    return {
        "hparam/tAccuracy": 100 * training,
        "hparam/vAccuracy": 100 * validation,
        "score": score(training, validation),
        "step": outcome[EPOCHS],
    }

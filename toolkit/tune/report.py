"""What a study found: its best trials, what mattered, and the parameters to train with."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.study import Study
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from toolkit.errors import DataError, UsageError
from toolkit.model.records import TuningRecord
from toolkit.networks.loading import STUDY, Definition
from toolkit.train.recipes import Recipe
from toolkit.tune.ledger import FAILURE, counted_trials, setup_of
from toolkit.tune.space import (
    LAYER_SIZE,
    SPACE,
    final_recipe,
    own_config,
    own_trial_recipe,
)
from toolkit.tune.trial import EPOCHS, TRAINING_ACCURACY, VALIDATION_ACCURACY

_PERCENT = 100.0


def finished_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that have a score, best first; equals by number."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if "network" not in setup_of(study):
        # The figures and recipes here know these parameters; trials with others are left out.
        trials = [trial for trial in trials if trial.params.keys() == SPACE.keys()]
    return sorted(trials, key=lambda trial: (-_value(trial), trial.number))


def failed_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that failed by themselves, such as diverged ones."""
    trials = counted_trials(study.get_trials(deepcopy=False))
    return [each for each in trials if each.state == TrialState.FAIL]


def importances(study: Study) -> dict[str, float]:
    """Return how much each parameter matters for the score, summing up to 1, largest first.

    By PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023). Empty where the scores do not differ,
    or there are fewer than two.
    """
    usable = [trial for trial in finished_trials(study) if math.isfinite(_value(trial))]
    return _importances(usable, parameters_of(usable))


def importance_intervals(
    study: Study, resamples: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return for each parameter between what its importance lies: 95 %, percentile bootstrap.

    As many trials are drawn again, with replacement, and their importances worked out anew
    (Efron, 1979). Empty where `importances` is.
    """
    usable = [trial for trial in finished_trials(study) if math.isfinite(_value(trial))]
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(usable), size=(resamples, len(usable))) if usable else ()
    names = parameters_of(usable)
    told = [each for row in drawn if (each := _importances([usable[i] for i in row], names))]
    if not told:
        return {}
    bounds = np.percentile([[each[name] for name in names] for each in told], (2.5, 97.5), axis=0)
    return {
        name: (float(low), float(high)) for name, (low, high) in zip(names, bounds.T, strict=True)
    }


def parameters_of(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the names of the parameters that all trials have; the study's in their order."""
    first = trials[0].params if trials else SPACE
    names = [name for name in first if all(name in each.params for each in trials)]
    return [*SPACE] if {*names} == SPACE.keys() else names


def parameter_text(value: Any) -> str:
    """Return the value of a parameter, which may be of any kind, to read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importances(trials: Sequence[FrozenTrial], names: Sequence[str]) -> dict[str, float]:
    if not names or len({_value(trial) for trial in trials}) < 2:
        return {}
    # It brings scikit-learn along, which takes seconds and nothing else here needs.
    from optuna.importance import get_param_importances

    return get_param_importances(study_of(trials), params=[*names])


def mean_parameters(trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Return the mean of each parameter; the layer size is rounded, halves to even."""
    means = {name: fmean(trial.params[name] for trial in trials) for name in SPACE}
    return {**means, LAYER_SIZE: round(means[LAYER_SIZE])}


def row(trial: FrozenTrial) -> dict[str, Any]:
    """Return a finished trial as plain values: number, score, accuracies (0 to 1), parameters."""
    attributes = trial.user_attrs
    value = _value(trial)
    return {
        "trial": trial.number,
        "score": value if math.isfinite(value) else None,
        TRAINING_ACCURACY: attributes.get(TRAINING_ACCURACY),
        VALIDATION_ACCURACY: attributes.get(VALIDATION_ACCURACY),
        EPOCHS: attributes.get(EPOCHS),
        **trial.params,
    }


def table(trials: Sequence[FrozenTrial]) -> str:
    """Return trials as text, a line for each."""
    # What a network's space asks for may depend on what it was given.
    names = parameters_of(trials)
    names += {name: None for trial in trials for name in trial.params if name not in names}
    ours = names == [*SPACE]
    heads = "   S  dropout   decay   lambda" if ours else "".join(f"  {name}" for name in names)
    lines = [f"{'trial':>5}{'score':>9}{'train':>8}{'val':>8}{'epochs':>8}{heads}"]
    for trial in trials:
        each = row(trial)
        values = [each.get(name, "-") for name in names]
        told = "".join(
            f"  {parameter_text(value):>{len(name)}}"
            for name, value in zip(names, values, strict=True)
        )
        if ours:
            told = "{:4}{:9.3f}{:8.3f}{:9.4f}".format(*values)
        lines.append(
            f"{trial.number:5}{_value(trial):9.4f}{_percent(each[TRAINING_ACCURACY])}"
            f"{_percent(each[VALIDATION_ACCURACY])}{each[EPOCHS] or '-':>8}{told}"
        )
    return "\n".join(lines)


def summary(study: Study) -> dict[str, Any]:
    """Return what a study came to, as plain values."""
    trials = finished_trials(study)
    return {
        "finished": len(trials),
        "failed": [
            {"trial": each.number, "reason": each.user_attrs.get(FAILURE)}
            for each in failed_trials(study)
        ],
        "best": [row(each) for each in trials[:10]],
        "importances": importances(study),
    }


def text(study: Study, intervals: Mapping[str, tuple[float, float]]) -> str:
    """Return what a study came to, to read.

    Args:
        study: it.
        intervals: of its importances, as `importance_intervals` returns them.
    """
    trials = finished_trials(study)
    lines = [table(trials[:10])]
    failures = failed_trials(study)
    if failures:
        reasons = ", ".join(f"{each.number} ({each.user_attrs.get(FAILURE)})" for each in failures)
        lines.append(f"failed: {reasons}")
    weights = importances(study)
    if weights:
        shown = ", ".join(
            f"{name} {weight:.0%} ({intervals[name][0]:.0%} to {intervals[name][1]:.0%})"
            for name, weight in weights.items()
        )
        lines.append(f"importance (95 % of bootstrap samples): {shown}")
    return "\n".join(lines)


def study_of(trials: Sequence[FrozenTrial]) -> Study:
    """Return a study in memory that holds these trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.add_trials(list(trials))
    return study


def read_csv(path: Path) -> Study:
    """Return a table of trials as a study in memory.

    Columns: a parameter each, under its name in the search space; `score`; and, where they are
    there, `hparam/tAccuracy` and `hparam/vAccuracy` in percent, and `step`, the epochs.

    Raises:
        DataError: it cannot be read, or lacks a column, or a value is no number or out of range.
    """
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of trials: {error}") from error
    if not rows:
        raise DataError(f"{path} holds no trials: give a table with a line for each")
    missing = [name for name in (*SPACE, "score") if name not in rows[0]]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}")
    trials = []
    for line, each in enumerate(rows, start=2):
        try:
            trials.append(_trial(each))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {line}, is not a trial: {error}") from error
    return study_of(trials)


def best(study: Study, count: int) -> list[FrozenTrial]:
    """Return the best trials of a study.

    Raises:
        UsageError: it has fewer.
    """
    trials = finished_trials(study)
    if len(trials) < count:
        raise UsageError(
            f"the study {study.study_name!r} has {len(trials)} finished trials, not {count}: "
            "run `toolkit tune` on, or lower --top"
        )
    return trials[:count]


def final_training(
    study: Study, count: int, definition: Definition = STUDY
) -> tuple[Recipe, TuningRecord]:
    """Return the final recipe that the best trials of a study give, and where it comes from.

    Of a network of one's own it is the best trial's alone: its parameters may be no numbers.

    Raises:
        UsageError: the study has fewer finished trials, was not made by `toolkit tune`, or is of
            another network.
    """
    setup = setup_of(study)
    if not setup:
        raise UsageError(
            f"the study {study.study_name!r} was not made by `toolkit tune`: name another"
        )
    own = definition.sha256 if definition.source else None
    if setup.get("network") != own:
        raise UsageError(
            f"the study {study.study_name!r} is of another network: give that one with --network"
            if setup.get("network")
            else f"the study {study.study_name!r} is of the study's network: leave out --network"
        )
    trials = best(study, 1 if own else count)
    parameters = dict(trials[0].params) if own else mean_parameters(trials)
    record = TuningRecord(
        study=study.study_name,
        preset=setup["preset"],
        seed=setup["seed"],
        trials=tuple(trial.number for trial in trials),
        scores=tuple(_value(trial) for trial in trials),
        parameters=parameters,
    )
    if own:
        config = own_config(definition, FixedTrial(parameters))
        return own_trial_recipe(definition, config, setup["epochs"]), record
    return final_recipe(record.preset, parameters, setup["epochs"]), record


def _trial(each: dict[str, str]) -> FrozenTrial:
    numbers = {name: float(each[name]) for name in SPACE}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError("a parameter is not finite")
    attributes: dict[str, Any] = {}
    for column, name, unit in (
        ("hparam/tAccuracy", TRAINING_ACCURACY, _PERCENT),
        ("hparam/vAccuracy", VALIDATION_ACCURACY, _PERCENT),
        ("step", EPOCHS, 1),
    ):
        if each.get(column):
            attributes[name] = float(each[column]) / unit
    if EPOCHS in attributes:
        attributes[EPOCHS] = int(attributes[EPOCHS])
    return create_trial(
        params={**numbers, LAYER_SIZE: int(numbers[LAYER_SIZE])},
        distributions=dict(SPACE),
        value=float(each["score"]),
        user_attrs=attributes,
    )


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _percent(accuracy: float | None) -> str:
    return f"{'-':>8}" if accuracy is None else f"{accuracy:8.1%}"

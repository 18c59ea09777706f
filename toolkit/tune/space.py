"""What tuning searches, and the recipes that a trial's parameters make."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from toolkit.train.recipes import PRESETS, Recipe

LAYER_SIZE = "layer_size"
DROPOUT = "dropout_main"
LR_DECAY = "lr_decay_rate_100"
LAMBDA = "reg_lambda"

SPACE: dict[str, BaseDistribution] = {
    LAYER_SIZE: IntDistribution(8, 28),
    DROPOUT: FloatDistribution(0.3, 0.7),
    LR_DECAY: FloatDistribution(0.3, 0.8),
    LAMBDA: FloatDistribution(1e-4, 0.1),
}
TRIAL_LR = 1e-3
_TRIAL_BATCH = 128
# The study's code drew the penalty, logged it, and then trained with this one.
_STUDY_TRIAL_LAMBDA = 0.01


def suggest(trial: Trial) -> dict[str, Any]:
    """Return one value for each parameter of the space, from the study's sampler."""
    values: dict[str, Any] = {}
    for name, distribution in SPACE.items():
        if isinstance(distribution, IntDistribution):
            values[name] = trial.suggest_int(name, distribution.low, distribution.high)
        elif isinstance(distribution, FloatDistribution):
            values[name] = trial.suggest_float(name, distribution.low, distribution.high)
    return values


def trial_recipe(preset: str, parameters: Mapping[str, Any], epochs: int) -> Recipe:
    """Return the recipe of a trial.

    Args:
        preset: `study` repeats the study's code: its own edge scale, class weights, a fixed
            penalty, and dropout in the first epoch only; `default` uses the penalty that was
            drawn, weights each class by the inverse of its count, has both inputs on one scale
            and dropout throughout.
        parameters: a value for each name in `SPACE`.
        epochs: most epochs.
    """
    faults = PRESETS["study"]
    recipe = replace(
        faults,
        lr=TRIAL_LR,
        batch_size=_TRIAL_BATCH,
        epochs=epochs,
        layer_size=parameters[LAYER_SIZE],
        dropout=parameters[DROPOUT],
        lr_decay=parameters[LR_DECAY],
        l2=_STUDY_TRIAL_LAMBDA,
    )
    if preset == "study":
        return recipe
    return replace(
        recipe,
        preset=preset,
        l2=parameters[LAMBDA],
        class_weights="inverse",
        dropout_epochs=None,
        constants=PRESETS["default"].constants,
    )


def final_recipe(preset: str, parameters: Mapping[str, Any], epochs: int) -> Recipe:
    """Return the recipe of the final training with tuned parameters.

    Of preset `study` that is the study's: its final learning rate, batch size and epochs, and
    the penalty as it was drawn. Of `default` it is what the trials were trained with.
    """
    if preset != "study":
        return trial_recipe(preset, parameters, epochs)
    return replace(
        PRESETS["study"],
        layer_size=parameters[LAYER_SIZE],
        dropout=parameters[DROPOUT],
        lr_decay=parameters[LR_DECAY],
        l2=parameters[LAMBDA],
    )

"""What tuning searches, and the recipes that a trial's parameters make."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna import Trial, create_study, logging
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import BaseTrial

from toolkit.errors import DefinitionError, is_text, printable
from toolkit.networks.loading import Definition, place_of, running
from toolkit.train.recipes import PRESETS, Recipe, own_recipe

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


def own_config(definition: Definition, trial: BaseTrial) -> dict[str, Any]:
    """Return what a network of one's own is made with in a trial.

    Raises:
        DefinitionError: its space(trial) fails, or gives no settings, or half a character in one,
            or what no JSON file can hold.
    """
    where = place_of(definition.network, "space")
    space: Any = getattr(definition.network, "space", None)
    with running(None, f"{where} fails"):
        config = space(trial)
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise DefinitionError(f"{where} gives {type(config).__name__}, not settings by name")
    try:
        kept = json.dumps(config, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DefinitionError(
            f"{where} gives {printable(config, 100)}, which the manifest cannot keep: give numbers "
            "and texts"
        ) from error
    if not is_text(kept):
        raise DefinitionError(f"{where} gives a text that is none in UTF-8")
    # As the manifest will give it back.
    result: dict[str, Any] = json.loads(kept)
    return result


def first_config(definition: Definition) -> dict[str, Any]:
    """Return the settings of some trial, to try the definition with."""
    # It tells of every study that it makes, and this one is nobody's.
    logging.set_verbosity(logging.ERROR)
    study = create_study(sampler=RandomSampler(seed=0))
    return own_config(definition, study.ask())


def own_trial_recipe(definition: Definition, config: dict[str, Any], epochs: int) -> Recipe:
    """Return the recipe of a trial of a network of one's own."""
    return replace(own_recipe(definition.network, config), epochs=epochs)


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

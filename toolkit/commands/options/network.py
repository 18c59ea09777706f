"""What `--network` and `--config` mean to the commands that make a model."""

import json
from typing import Any

from export.convert.onnx import check_conversion
from toolkit.errors import DefinitionError, UsageError, is_text, printable
from toolkit.networks.checking import check
from toolkit.networks.loading import Definition, load, place_of
from toolkit.train.recipes import own_recipe
from toolkit.tune.space import first_config
from toolkit.xray.labels import LabelMap


def definition_for(
    network: str | None, config: list[str] | None, labels: LabelMap
) -> tuple[Definition, dict[str, Any]]:
    """Return the definition that is named, which can work, and what its network is made with.

    Raises:
        DefinitionError: it cannot be read, or cannot work.
        UsageError: settings for the study's network, or one that is none.
    """
    definition = load(network)
    settings = _settings(config or [])
    if network is None:
        if settings:
            raise UsageError("--config is of a network of your own: give --network")
        return definition, {}
    check(definition.network, len(labels.classes), settings)
    return definition, settings


def definition_to_train(
    network: str | None, config: list[str] | None, labels: LabelMap
) -> tuple[Definition, dict[str, Any]]:
    """Return what `definition_for` does of a network that can be exported once it is trained.

    Raises:
        DefinitionError, UsageError: as there, or it does what no ONNX operator does.
    """
    definition, settings = definition_for(network, config, labels)
    if network:
        check_conversion(definition.network, len(labels.classes), settings)
    return definition, settings


def definition_to_tune(network: str | None, labels: LabelMap) -> Definition:
    """Return the definition that is named, whose space of settings can be searched.

    Raises:
        DefinitionError: it cannot be read, has no space, or cannot work as that space begins, or
            does what no ONNX operator does.
    """
    definition = load(network)
    if network:
        space = getattr(definition.network, "space", None)
        if space is None:
            raise DefinitionError(
                f"{place_of(definition.network)} has no space(trial), which gives the settings of "
                "a trial"
            )
        config = first_config(definition)
        check(definition.network, len(labels.classes), config)
        own_recipe(definition.network, config)
        check_conversion(definition.network, len(labels.classes), config)
    return definition


def _settings(words: list[str]) -> dict[str, Any]:
    """Return NAME=VALUE as values of their kind: a number, true, false or else a text."""
    settings = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise UsageError(f"--config {word!r} is no setting: give it as NAME=VALUE")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
        if not is_text(json.dumps(settings[name], ensure_ascii=False)):
            raise UsageError(f"--config {printable(word)!r} is no text in UTF-8")
    return settings

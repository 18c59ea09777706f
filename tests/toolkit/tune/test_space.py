"""The settings that the space of a network of one's own gives."""

from types import SimpleNamespace

import pytest

from toolkit.errors import DefinitionError
from toolkit.networks.loading import Definition
from toolkit.tune.space import first_config


def definition(space):
    return Definition(SimpleNamespace(space=space), "own.py:Own", b"")


def test_settings_are_as_the_manifest_gives_them_back_and_optuna_says_nothing(capsys):
    def space(trial):
        return {"widths": (4, 8), "rate": trial.suggest_float("rate", 0, 1), "norm": None}

    config = first_config(definition(space))
    assert config == {"widths": [4, 8], "rate": config["rate"], "norm": None}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("value", [dict, 1j, b"3", float("nan"), {3}])
def test_a_setting_that_no_manifest_can_hold_is_refused_before_any_trial(value):
    with pytest.raises(DefinitionError, match="which the manifest cannot keep: give numbers"):
        first_config(definition(lambda _: {"width": value}))

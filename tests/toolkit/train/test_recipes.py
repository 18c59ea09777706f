import re
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.errors import DefinitionError, UsageError
from toolkit.model.records import PreprocessingConstants
from toolkit.train.recipes import faults, own_recipe, recipe


def test_the_study_preset_is_the_studys_final_model():
    study = recipe("study")
    assert (study.layer_size, study.dropout) == (28, 0.5)
    assert (study.schedule, study.lr_decay, study.lr) == ("exponential", 0.5, 0.0001)
    assert (study.l2, study.weight_decay) == (0.027, 0)
    assert (study.batch_size, study.epochs) == (512, 500)
    assert study.class_weights == "counts_first_seen"
    assert (study.constants.edge_mean, study.constants.edge_std) == (0.449, 0.226)
    assert (study.constants.image_mean, study.constants.image_std) == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    assert study.constants.edge_threshold == 10
    assert study.dropout_epochs == 1
    # The study had none of these.
    assert study.augmentation == study.average_decay == study.label_smoothing == 0


def test_the_default_mends_what_the_study_got_wrong():
    default = recipe("default")
    assert default.class_weights == "inverse_sqrt"
    assert default.l2 == 0
    assert default.dropout_epochs is None
    assert default.constants == PreprocessingConstants()
    # On the scale of the edge map, 0 to 255, not on the study's 0 to 1.
    assert default.constants.edge_mean > 1
    assert default.constants.edge_std > 1


def numbers(chosen, split):
    return [each.partition(",")[0] for each in faults(chosen, split)]


def test_the_faults_that_a_training_repeats_are_told_by_their_number():
    assert numbers(recipe("study"), "study") == ["1", "2", "4 and 5", "6", "8"]
    assert numbers(recipe("default"), "published") == []


def test_a_fault_that_is_mended_is_not_told():
    default = recipe("default")
    assert "1" not in numbers(recipe("study"), "patient")
    for name, number in (
        ("class_weights", "2"),
        ("l2", "4 and 5"),
        ("constants", "6"),
        ("dropout_epochs", "8"),
    ):
        mended = replace(recipe("study"), **{name: getattr(default, name)})
        left = {"1", "2", "4 and 5", "6", "8"} - {number}
        assert set(numbers(mended, "study")) == left


def test_the_readme_lists_each_of_the_faults_under_its_number():
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text()
    listed = dict(re.findall(r"^(\d)\. (.*)$", readme, re.MULTILINE))
    assert list(listed) == list("12345678")
    words = {
        "1": "split",
        "2": "counts",
        "4": "decay",
        "5": "denormal",
        "6": "0..1",
        "8": "dropout",
    }
    assert all(word in listed[number] for number, word in words.items())
    told = faults(recipe("study"), "study")
    assert all(any(word in each for each in told) for word in words.values())


def test_given_options_win_and_others_stay():
    changed = recipe("study", lr=0.5, epochs=None, dropout=0.0)
    assert (changed.lr, changed.epochs, changed.dropout) == (0.5, 500, 0.0)
    assert recipe("study").lr == 0.0001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_size", 0),
        ("layer_size", -1),
        ("epochs", 0),
        ("batch_size", 0),
        ("batch_size", -5),
        ("dropout_epochs", 0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", float("nan")),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", 1e300),
        ("lr", "0.1"),
        ("batch_size", 8.0),
        ("epochs", True),
        ("l2", -1),
        ("average_decay", 1.0),
        ("augmentation", float("nan")),
        ("optimiser", "sgd"),
        ("schedule", "cosine"),
        ("class_weights", None),
        ("initialisation", "xavier"),
        ("precision", "fp16"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=f"{name} is .*: give"):
        replace(recipe("default"), **{name: value})


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (lambda: None, "gives NoneType, not settings by name"),
        (lambda: {"epoch": 3}, "has 'epoch': it may have .*epochs"),
        (lambda: {"layer_size": 3}, "has 'layer_size': it may have"),
        (lambda: {"batch_size": "8"}, "batch_size is '8': give 1 or more, a whole number"),
        (lambda: {"optimiser": "sgd"}, "optimiser is 'sgd': give one of adam, muon"),
        (lambda: 1 / 0, "recipe fails: ZeroDivisionError"),
    ],
)
def test_a_networks_own_recipe_that_cannot_be_followed_is_told_with_its_place(wanted, told):
    class Own:
        def recipe(self):
            return wanted()

    with pytest.raises(DefinitionError, match=rf"test_recipes.py:\d+ .*{told}"):
        own_recipe(Own(), {})


def test_a_network_without_a_recipe_is_trained_by_the_default_one():
    assert own_recipe(object(), {"width": 3}) == replace(
        recipe("default"), preset="own", initialisation="pytorch", config={"width": 3}
    )


def test_a_preset_that_does_not_exist_is_refused_with_the_ones_that_do():
    with pytest.raises(UsageError, match=r"'best'.*study, default"):
        recipe("best")

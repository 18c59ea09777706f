"""Trainings that begin with the weights of a file."""

import json

import pytest
import torch
from command_line import refused, run

from toolkit.errors import CheckpointError, UsageError
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.finish import judge
from toolkit.train.recipes import recipe
from toolkit.train.training import Training
from toolkit.train.weights import beginning, first_weights

CPU = torch.device("cpu")


def weights_of(classes=4, layer_size=3):
    torch.manual_seed(7)
    return IntermediarySpaceModel(layer_size, 0.1, classes).state_dict()


def beginning_with(path, dataset):
    chosen = recipe("default", layer_size=3, epochs=1, batch_size=64)
    return Training(dataset, chosen, 0, CPU, weights=first_weights(path))


@pytest.mark.parametrize(
    "saved",
    [
        lambda weights: weights,
        lambda weights: {"epoch": 3, "state_dict": weights},
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {"model": {f"_orig_mod.{k}": v.double() for k, v in weights.items()}},
    ],
)
def test_a_training_begins_with_the_weights_of_a_file_however_they_were_saved(
    tiny, tmp_path, saved
):
    weights = weights_of()
    torch.save(saved(weights), tmp_path / "mine.pt")
    training = beginning_with(tmp_path / "mine.pt", tiny)
    for network in (training.network, training.average):
        found = network.state_dict()
        assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert training.began_with.new == ()
    assert beginning(training.began_with, len(weights)) == "beginning with the weights of mine.pt"


def test_what_a_file_lacks_or_has_in_another_shape_begins_as_new_and_is_told(tiny, tmp_path):
    weights = {f"module.{name}": value for name, value in weights_of(classes=5).items()}
    del weights["module.imagesClassifier.0.bias"]
    torch.save(weights | {"module.head": torch.ones(2)}, tmp_path / "five.pt")
    training = beginning_with(tmp_path / "five.pt", tiny)
    last = [name for name in training.network.state_dict() if name.startswith("outputCombiner")]
    new = ("imagesClassifier.0.bias", *last[-2:])
    assert training.began_with.new == new
    found = training.network.state_dict()
    assert all(torch.equal(found[name], weights[f"module.{name}"]) for name in {*found} - {*new})
    said = beginning(training.began_with, len(found))
    assert said.startswith(f"beginning with {len(found) - 3} of {len(found)} weights from five.pt")
    assert all(name in said for name in new)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"resnet.conv1.weight": torch.ones(3)}, "resnet.conv1.weight"),
        ({}, "it holds 'nothing' and no 'imagesClassifier.0.weight'"),
        (weights_of(layer_size=4), "is (8, 3, 11, 11) there and (6, 3, 11, 11) in the network"),
        (weights_of() | {"imagesClassifier.0.bias": torch.full((6,), torch.nan)}, "not finite"),
        ([torch.ones(3)], "state_dict"),
    ],
    ids=["another network", "nothing", "another width", "no numbers", "a list"],
)
def test_weights_that_are_of_no_use_are_refused_in_one_line(tiny, tmp_path, weights, named):
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(CheckpointError) as refusal:
        beginning_with(tmp_path / "other.pt", tiny)
    assert named in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_training_goes_on_with_the_weights_that_it_began_with_alone(tiny, tmp_path):
    torch.save(weights_of(), tmp_path / "mine.pt")
    torch.save(weights_of(classes=5), tmp_path / "other.pt")
    state = tmp_path / "state.pt"
    beginning_with(tmp_path / "mine.pt", tiny).save(state)
    beginning_with(tmp_path / "mine.pt", tiny).load(state)
    with pytest.raises(UsageError, match="weights was"):
        beginning_with(tmp_path / "other.pt", tiny).load(state)


def test_the_record_says_what_a_training_began_with(tiny, tmp_path):
    torch.save(weights_of(), tmp_path / "mine.pt")
    training = beginning_with(tmp_path / "mine.pt", tiny)
    record, _ = judge(training, "fine")
    assert record.training.weights == training.began_with
    assert training.began_with.sha256 == first_weights(tmp_path / "mine.pt").sha256


def test_a_command_begins_with_a_models_weights_and_its_manifest_names_them(png_folder, tmp_path):
    knees = png_folder(
        *(f"train/{grade}/90000{grade}{side}" for grade in (0, 2, 3, 4) for side in "LR")
    )
    begin = ("train", "--data", knees, "--layer-size", 1, "--epochs", 1, "--batch-size", 64)
    begin += ("--models", tmp_path / "models", "--logs", tmp_path / "logs")
    run(*begin, "--name", "first")
    first = tmp_path / "models/first.pt"
    run(*begin, "--name", "second", "--weights", first)
    known = {
        name: json.loads((tmp_path / f"models/{name}.json").read_text())["training"]
        for name in ("first", "second")
    }
    assert "weights" not in known["first"]
    assert known["second"]["weights"] == {
        "file": "first.pt",
        "sha256": known["first"]["checkpoint_sha256"],
        "new": [],
    }
    assert "gone.pt" in refused(*begin, "--name", "third", "--weights", tmp_path / "gone.pt")
    assert not [*(tmp_path / "models").glob("third*")]

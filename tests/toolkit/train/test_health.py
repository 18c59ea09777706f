"""A model's own faults are told in words: dead inputs, denormals, classes never predicted."""

from dataclasses import replace

import pytest
import torch

from export.convert.clean_up import flush_denormals
from toolkit.train.health import health

PARTS = pytest.mark.parametrize(
    ("part", "name"), [("imagesClassifier", "image"), ("edgesClassifier", "edges")]
)


def found(small, network, record=None):
    xrays = torch.from_numpy(small.inputs.pixels)
    classifier = small.pipeline.with_parts(network, small.pipeline.preprocessing)
    findings = health(classifier, xrays, record or small.record)
    return {(each.kind, each.where) for each in findings}


def test_a_sound_model_has_no_findings(small, network):
    assert found(small, network) == set()


@PARTS
def test_a_dead_input_is_found(small, network, part, name):
    with torch.no_grad():
        getattr(network, part)[-1].weight.zero_()
    kinds = found(small, network)
    assert ("dead_input", name) in kinds
    assert ("zero_layer", f"{part}.{len(getattr(network, part)) - 1}.weight") in kinds
    assert not any(kind == "dead_input" and where != name for kind, where in kinds)


@PARTS
def test_an_input_of_next_to_no_effect_is_told_and_not_called_dead(small, network, part, name):
    with torch.no_grad():
        getattr(network, part)[-1].weight.mul_(1e-4)
    assert found(small, network) == {("faint_input", name)}


def test_denormals_are_found_and_flushed_without_changing_a_logit(small, network):
    image, edges = (torch.from_numpy(small.arrays[name]) for name in ("image", "edges"))
    with torch.no_grad():
        # As bits: ONNX Runtime may have set this thread to flush a denormal that is computed.
        network.imagesClassifier[4].weight.view(torch.int32)[0] = 71362
        before = network(image, edges)
    assert ("denormal", "imagesClassifier.4.weight") in found(small, network)
    assert flush_denormals(network) == network.imagesClassifier[4].weight[0].numel()
    assert not found(small, network)
    with torch.no_grad():
        assert torch.equal(network(image, edges), before)


def test_nan_is_found(small, network):
    with torch.no_grad():
        network.outputCombiner[2].bias[0] = float("nan")
    assert ("not_finite", "outputCombiner.2.bias") in found(small, network)


def test_a_class_that_is_never_predicted_is_found(small, network):
    matrix = [[5, 1, 0, 0], [1, 5, 0, 0], [0, 0, 6, 0], [0, 0, 2, 0]]
    training = replace(small.record.training, metrics={"val": {"confusion_matrix": matrix}})
    assert found(small, network, replace(small.record, training=training)) == {
        ("never_predicted", "severe")
    }

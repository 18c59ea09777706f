"""Where a leg fails, the first layer that differs is named, in every format."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from export.compare.layers import first_difference
from export.convert.clean_up import clean_up
from export.convert.pipeline import Pipeline
from export.convert.torch_formats import export_torchscript
from toolkit.networks.preprocessing import Preprocessing

NONE = "no single layer differs: the differences add up"


def _perturbed(small, layer):
    """The pipeline with one perturbed weight."""
    pipeline = copy.deepcopy(small.pipeline)
    with torch.no_grad():
        weight = pipeline.network.get_submodule(layer).weight
        weight.flatten()[weight.abs().argmax()] *= 1.5
    return pipeline


@pytest.mark.parametrize(
    "kind", ["network", "pipeline", "torchscript", pytest.param("pt2", marks=pytest.mark.full)]
)
def test_a_weight_that_differs_is_found_in_its_layer(small, torch_formats, kind):
    path = torch_formats[0].path(kind)
    assert first_difference(kind, path, small.pipeline, small.inputs.pixels) == NONE
    for layer in ("imagesClassifier.8", "edgesClassifier.0", "outputCombiner.5"):
        found = first_difference(kind, path, _perturbed(small, layer), small.inputs.pixels)
        assert found.startswith(f"the first layer that differs is {layer}, by ")


@pytest.mark.parametrize("kind", ["network", "torchscript"])
def test_a_layer_that_another_changes_in_place_is_not_taken_for_one_that_differs(
    small, torch_formats, kind
):
    pipeline = copy.deepcopy(small.pipeline)
    for layer in pipeline.network.modules():
        if isinstance(layer, torch.nn.ReLU):
            layer.inplace = True
    path = torch_formats[0].path(kind)
    assert first_difference(kind, path, pipeline, small.inputs.pixels) == NONE
    for each in (pipeline.network.imagesClassifier[8], pipeline.network.imagesClassifier[4]):
        with torch.no_grad():
            each.bias += 0.1
    found = first_difference(kind, path, pipeline, small.inputs.pixels)
    assert found.startswith("the first layer that differs is imagesClassifier.4, by ")


def test_the_layer_is_part_of_a_failed_legs_report(copied, changed, leg_of):
    path = copied.path("network")
    assert leg_of("network", path).failures == ()
    changed(path, "edgesClassifier.4.weight", lambda array: array * np.float32(1.5))
    leg = leg_of("network", path)
    assert not leg.passed
    assert leg.failures[-1].startswith("the first layer that differs is edgesClassifier.4, by ")


def test_nan_is_found_in_the_layer_that_it_enters_by(small, copied, changed):
    path = copied.path("pipeline")
    changed(path, "edgesClassifier.8.bias", lambda array: array * np.float32("nan"))
    found = first_difference("pipeline", path, small.pipeline, small.inputs.pixels)
    assert found == "the first layer that differs is edgesClassifier.8, by nan"


def test_a_wrong_normalisation_constant_is_found_before_the_network(small):
    other = Preprocessing(replace(small.record.preprocessing, edge_mean=16.0))
    pipeline = Pipeline(small.pipeline.with_parts(small.pipeline.network, other))
    path = small.files.path("pipeline")
    found = first_difference("pipeline", path, pipeline, small.inputs.pixels)
    assert found.startswith("the first layer that differs is edges, by ")


def test_live_dropout_is_found_by_name_in_onnx_and_in_a_trace(small, copied, edited, tmp_path):
    def enliven(graph):
        at, pool = next(
            (i, node) for i, node in enumerate(graph.node) if node.output[0] == "max_pool2d_3"
        )
        pool.output[0] = "pooled"
        graph.initializer.append(helper.make_tensor("share", TensorProto.FLOAT, [], [0.5]))
        graph.initializer.append(helper.make_tensor("live", TensorProto.BOOL, [], [True]))
        dropout = helper.make_node("Dropout", ["pooled", "share", "live"], ["max_pool2d_3"])
        scope = "['', 'edgesClassifier', 'edgesClassifier.3', 'dropout']"
        dropout.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scope)
        graph.node.insert(at + 1, dropout)

    edited(copied.path("network"), enliven)
    live = copy.deepcopy(small.pipeline)
    live.network.edgesClassifier[3].train()
    xrays = torch.zeros(2, 224, 224, dtype=torch.uint8)
    torch.jit.save(torch.jit.trace(live, xrays, check_trace=False), tmp_path / "live.pt")
    for kind, path in (("network", copied.path("network")), ("torchscript", tmp_path / "live.pt")):
        found = first_difference(kind, path, small.pipeline, small.inputs.pixels)
        assert found.startswith("the first layer that differs is edgesClassifier.3, by ")


def test_a_trace_without_a_dead_branch_is_compared_by_the_layers_that_it_has(small, tmp_path):
    dead, path = copy.deepcopy(small.pipeline), tmp_path / "dropped"
    with torch.no_grad():
        for parameter in dead.network.imagesClassifier.parameters():
            parameter.zero_()
        xrays = torch.from_numpy(small.inputs.pixels)
        cleaned, names = clean_up(dead, xrays, drop_dead=True)
        assert names == ("imagesClassifier",)
        cleaned.network.outputCombiner[5].weight *= 1.5
    export_torchscript(cleaned, small.record, path)
    found = first_difference("torchscript", path, dead, small.inputs.pixels)
    assert found.startswith("the first layer that differs is outputCombiner.5, by ")

"""Where a leg fails, the first layer that differs is named, in every format."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from export.compare.artifacts import Reference, compare_file, specs_of
from export.compare.layers import first_difference
from export.convert.clean_up import mended
from export.convert.onnx import export_network, export_pipeline
from export.convert.pipeline import Pipeline
from export.convert.torch_formats import export_pt2, export_torchscript
from toolkit.networks.preprocessing import Preprocessing

WRITERS = {
    "network": lambda pipeline, record, path: export_network(pipeline.network, record, path),
    "pipeline": export_pipeline,
    "torchscript": export_torchscript,
    "pt2": export_pt2,
}
LAYERS = ["imagesClassifier.8", "edgesClassifier.0", "outputCombiner.5"]


def _planted(small, layer):
    """The pipeline with one perturbed weight."""
    pipeline = copy.deepcopy(small.pipeline)
    with torch.no_grad():
        weight = pipeline.network.get_submodule(layer).weight
        weight.flatten()[weight.abs().argmax()] *= 1.5
    return pipeline


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_perturbed_weight_is_found_in_its_layer(small, tmp_path, kind, layer):
    path = tmp_path / "perturbed"
    WRITERS[kind](_planted(small, layer), small.record, path)
    found = first_difference(kind, path, small.pipeline, small.inputs.pixels)
    assert found.startswith(f"the first layer that differs is {layer}, by ")


def test_equal_files_have_no_such_layer(small):
    for kind in ("network", "pipeline"):
        path = small.files.path(kind)
        found = first_difference(kind, path, small.pipeline, small.inputs.pixels)
        assert found == "no single layer differs: the differences add up"


def test_the_layer_is_part_of_a_failed_legs_report(small, tmp_path):
    path = tmp_path / "small.onnx"
    export_network(_planted(small, "edgesClassifier.4").network, small.record, path)
    labels = small.record.labels.classes
    reference = Reference(small.pipeline, small.inputs, small.reference, None, labels)
    specs = specs_of("network", small.pipeline)
    leg = compare_file("network", path, specs, reference)
    assert not leg.passed
    assert leg.failures[-1].startswith("the first layer that differs is edgesClassifier.4, by ")
    assert compare_file("network", small.files.path("network"), specs, reference).failures == ()


def test_nan_is_found_in_the_layer_that_it_enters_by(copied, small, changed):
    path = copied.path("pipeline")
    changed(path, "edgesClassifier.8.bias", lambda array: array * np.float32("nan"))
    found = first_difference("pipeline", path, small.pipeline, small.inputs.pixels)
    assert found == "the first layer that differs is edgesClassifier.8, by nan"


def test_a_wrong_normalisation_constant_is_found_before_the_network(small, tmp_path):
    wrong = replace(small.record.preprocessing, edge_mean=16.0)
    pipeline = Pipeline(Preprocessing(wrong), small.pipeline.network)
    path = tmp_path / "wrong.onnx"
    export_pipeline(pipeline, small.record, path)
    found = first_difference("pipeline", path, small.pipeline, small.inputs.pixels)
    assert found.startswith("the first layer that differs is edges, by ")


def test_live_dropout_is_found_by_name_in_onnx_and_in_a_trace(small, copied, tmp_path):
    path = tmp_path / "live.onnx"
    model = onnx.load(copied.path("network"))
    graph = model.graph
    at = next(i for i, node in enumerate(graph.node) if node.output[0] == "max_pool2d_3")
    pool = graph.node[at]
    pool.output[0] = "pooled"
    graph.initializer.append(helper.make_tensor("share", onnx.TensorProto.FLOAT, [], [0.5]))
    graph.initializer.append(helper.make_tensor("live", onnx.TensorProto.BOOL, [], [True]))
    dropout = helper.make_node("Dropout", ["pooled", "share", "live"], ["max_pool2d_3"])
    scope = "['', 'edgesClassifier', 'edgesClassifier.3', 'dropout']"
    entry = dropout.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", scope
    graph.node.insert(at + 1, dropout)
    onnx.save(model, path)
    found = first_difference("network", path, small.pipeline, small.inputs.pixels)
    assert found.startswith("the first layer that differs is edgesClassifier.3, by ")

    pipeline = copy.deepcopy(small.pipeline)
    pipeline.network.edgesClassifier[3].train()
    traced = torch.jit.trace(
        pipeline, torch.zeros(2, 224, 224, dtype=torch.uint8), check_trace=False
    )
    torch.jit.save(traced, tmp_path / "live.pt")
    found = first_difference(
        "torchscript", tmp_path / "live.pt", small.pipeline, small.inputs.pixels
    )
    assert found.startswith("the first layer that differs is edgesClassifier.3, by ")


def test_a_trace_without_a_dead_branch_is_compared_by_the_layers_that_it_has(small, tmp_path):
    dead, path = copy.deepcopy(small.pipeline), tmp_path / "dropped"
    xrays = torch.from_numpy(small.inputs.pixels)
    with torch.no_grad():
        for parameter in dead.network.imagesClassifier.parameters():
            parameter.zero_()
        dropped, names = mended(dead, xrays, drop_dead=True)
        assert names == ("imagesClassifier",)
        dropped.network.outputCombiner[5].weight *= 1.5
    export_torchscript(dropped, small.record, path)
    found = first_difference("torchscript", path, dead, small.inputs.pixels)
    assert found.startswith("the first layer that differs is outputCombiner.5, by ")

"""The grey fold: what is exported computes what PyTorch computes, and a wrong fold is found."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from export.compare.equivalence import compare_onnx, references
from export.compare.samples import samples
from export.convert import folding
from export.convert.folding import FoldedPipeline, GreyConv
from export.convert.onnx import export_pipeline, pipeline_specs
from export.convert.pipeline import Pipeline
from toolkit.model.manifest import PreprocessingConstants
from toolkit.networks.preprocessing import Preprocessing
from toolkit.train.recipes import STUDY_EDGES

CONSTANTS = {"default": PreprocessingConstants(), "study": STUDY_EDGES}
UNEQUAL = PreprocessingConstants(image_mean=(0.1, 0.5, 0.9), image_std=(0.05, 0.3, 1.0))


@pytest.mark.parametrize("constants", sorted(CONSTANTS))
@pytest.mark.parametrize("kind", ["generated", "noise", "black", "white", "half", "one pixel"])
def test_folded_pipeline_gives_the_logits_of_the_unfolded_one(small, constants, kind):
    plain = Pipeline(Preprocessing(CONSTANTS[constants]), small.pipeline.network)
    every = samples()
    xray = torch.from_numpy(every.pixels[np.array(every.kinds) == kind][:8])
    with torch.no_grad():
        logits, probabilities, edge_map = FoldedPipeline(plain)(xray)
        expected = plain(xray)
    scale = max(1.0, float(expected[0].abs().max()))
    assert float((logits - expected[0]).abs().max()) <= 2e-6 * scale
    if constants != "study":  # whose logits are so large that a softmax of them is a step
        torch.testing.assert_close(probabilities, expected[1], rtol=0, atol=2e-6)
    assert torch.equal(edge_map, expected[2])


def test_folded_convolution_is_exact_along_the_borders_too(small):
    """In float64 nothing but the order of the sums is left, also where zeros are padded."""
    preprocessing = Preprocessing(UNEQUAL)
    conv = small.pipeline.network.imagesClassifier[0]
    folded = GreyConv(conv, preprocessing)
    assert folded.bias_map.shape == (1, conv.out_channels, 63, 63)
    grey = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = (grey - preprocessing.image_mean).double() / preprocessing.image_std.double()
        weight, bias = conv.weight.double(), conv.bias.double()
        expected = torch.nn.functional.conv2d(image, weight, bias, conv.stride, conv.padding)
        difference = (folded(grey) - expected).abs()
    bound = 1e-6 * float(expected.abs().max())
    assert float(difference.max()) <= bound
    # The border is what a bias of one number for each channel would get wrong.
    inner = folded.bias_map[:, :, 31:32, 31:32]
    assert float((folded.bias_map - inner).abs()[:, :, 0].max()) > 100 * bound


def test_folding_leaves_the_pipeline_as_it_was(small):
    before = {name: each.clone() for name, each in small.pipeline.state_dict().items()}
    FoldedPipeline(small.pipeline)
    after = small.pipeline.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(each, after[name]) for name, each in before.items())
    assert small.pipeline.network.imagesClassifier[0].in_channels == 3


def test_exported_graph_has_a_first_convolution_over_one_channel(small):
    graph = onnx.load(small.files.path("pipeline")).graph
    weights = {each.name: list(each.dims) for each in graph.initializer}
    first = [
        weights[node.input[1]]
        for node in graph.node
        if node.op_type == "Conv" and weights[node.input[1]][2:] == [11, 11]
    ]
    assert first == [[8, 1, 11, 11], [8, 1, 11, 11]]
    (bias_map,) = [dims for name, dims in weights.items() if name.endswith("bias_map")]
    assert bias_map == [1, 8, 63, 63]
    # The network alone keeps the three channels that its callers give it.
    network = onnx.load(small.files.path("network")).graph
    assert [8, 3, 11, 11] in [list(each.dims) for each in network.initializer]


def test_exported_fold_is_compared_with_the_unfolded_pytorch(small, monkeypatch, tmp_path):
    """The study's constants too: their logits are the largest, and the bound scales with them."""

    def fail(*_):
        raise AssertionError("the reference was folded")

    pipeline = Pipeline(Preprocessing(STUDY_EDGES), small.pipeline.network)
    path = tmp_path / "study.onnx"
    export_pipeline(pipeline, replace(small.record, preprocessing=STUDY_EDGES), path)
    monkeypatch.setattr(folding.FoldedPipeline, "forward", fail)
    reference = references(pipeline, small.inputs)
    leg = compare_onnx(path, *pipeline_specs(4), reference, small.inputs)
    assert leg.passed, leg.failures


def _one_number_a_channel(array):
    return np.broadcast_to(array[:, :, 31:32, 31:32], array.shape).copy()


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        ("imagesClassifier.0.weight", lambda array: array * np.float32(0.224 / 0.225)),
        ("imagesClassifier.0.weight", lambda array: array / 3),
        ("imagesClassifier.0.bias_map", np.zeros_like),
        ("imagesClassifier.0.bias_map", lambda array: array * np.float32(1.001)),
        ("imagesClassifier.0.bias_map", _one_number_a_channel),
    ],
    ids=["std of one channel", "mean of the channels", "no constant", "constant", "no borders"],
)
def test_wrong_fold_is_found_by_the_equivalence_check(small, changed, tmp_path, ending, fault):
    path = shutil.copy(small.files.path("pipeline"), tmp_path / "wrong.pipeline.onnx")
    changed(path, ending, fault)
    leg = compare_onnx(path, *pipeline_specs(4, scoped=True), small.reference, small.inputs)
    assert not leg.passed
    assert any(line.startswith("logits in batches of") for line in leg.failures)

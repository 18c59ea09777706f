"""The exported graphs: what they take and give, one file each, and the very bytes of PyTorch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import export
from export.compare.samples import samples
from export.convert.onnx import (
    IR_VERSION,
    OPSET,
    _export,
    export_network,
    export_pipeline,
    network_specs,
    pipeline_specs,
)
from export.convert.pipeline import Pipeline
from toolkit.errors import UsageError
from toolkit.networks.preprocessing import Preprocessing
from toolkit.runtime.session import open_session
from toolkit.train.recipes import STUDY_EDGES

KINDS = ("network", "pipeline", "explainer")


def _specs(values):
    return [(each.name, each.type, each.shape) for each in values]


def test_network_takes_image_and_edges_and_gives_logits(small):
    session = open_session(small.files.path("network"), "cpu")
    assert _specs(session.get_inputs()) == [
        ("image", "tensor(float)", ["batch", 3, 256, 256]),
        ("edges", "tensor(float)", ["batch", 1, 224, 224]),
    ]
    assert _specs(session.get_outputs()) == [("logits", "tensor(float)", ["batch", 4])]


def test_pipeline_takes_xray_and_gives_logits_probabilities_edge_map_and_novelty(small):
    session = open_session(small.files.path("pipeline"), "cpu")
    assert _specs(session.get_inputs()) == [("xray", "tensor(uint8)", ["batch", 224, 224])]
    assert _specs(session.get_outputs()) == [
        ("logits", "tensor(float)", ["batch", 4]),
        ("probabilities", "tensor(float)", ["batch", 4]),
        ("edge_map", "tensor(uint8)", ["batch", 224, 224]),
        ("novelty", "tensor(float)", ["batch"]),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_opset_and_ir_version_suit_the_oldest_onnxruntime(small, kind):
    model = onnx.load(small.files.path(kind))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    assert OPSET == 20
    assert model.ir_version == IR_VERSION <= 10
    assert small.record.export.artifacts[kind].opset == OPSET


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_holds_everything(small, kind, tmp_path):
    model = onnx.load(small.files.path(kind), load_external_data=False)
    assert not [each.name for each in model.graph.initializer if each.external_data]
    assert sorted(path.name for path in small.files.folder.iterdir()) == [
        "small.explainer.onnx",
        "small.golden.npz",
        "small.json",
        "small.onnx",
        "small.pipeline.onnx",
        "small.pt",
        "small.scope.pt",
    ]
    alone = shutil.copy(small.files.path(kind), tmp_path / "alone.onnx")
    onnxruntime.InferenceSession(alone, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", KINDS)
def test_file_names_no_folder_of_the_machine_that_made_it(small, kind):
    content = small.files.path(kind).read_bytes()
    for module in (export, torch):
        assert str(Path(module.__path__[0]).parent).encode() not in content


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_says_what_the_model_is(small, kind):
    model = onnx.load(small.files.path(kind))
    properties = {each.key: each.value for each in model.metadata_props}
    constants = small.record.preprocessing
    assert properties["name"] == "small"
    assert json.loads(properties["classes"]) == ["none", "minimal", "moderate", "severe"]
    assert json.loads(properties["grades"]) == [[0], [2], [3], [4]]
    assert json.loads(properties["image_mean"]) == list(constants.image_mean)
    assert json.loads(properties["edge_mean"]) == constants.edge_mean
    assert json.loads(properties["edge_std"]) == constants.edge_std
    assert properties["checkpoint_sha256"] == small.record.training.checkpoint_sha256
    assert properties["torch_version"] == torch.__version__
    assert properties["licence"] == "Apache-2.0"


def test_probabilities_are_tempered_and_logits_are_not(small):
    session = open_session(small.files.path("pipeline"), "cpu")
    logits, probabilities = session.run(
        ["logits", "probabilities"], {"xray": small.reference["xray"]}
    )
    with torch.no_grad():
        inputs = [torch.from_numpy(small.reference[each]) for each in ("image", "edges")]
        plain = small.pipeline.network(*inputs).numpy()
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-4)
    assert small.record.temperature == 1.7
    powers = np.exp(logits.astype(np.float64) / 1.7)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    properties = onnx.load(small.files.path("pipeline")).metadata_props
    assert ("temperature", "1.7") in [(each.key, each.value) for each in properties]


def test_live_dropout_is_never_exported(small, tmp_path):
    """Both exports start from a module in training mode."""
    path = tmp_path / "training.onnx"
    pipeline = Pipeline(small.pipeline.preprocessing, small.pipeline.network)
    try:
        export_network(pipeline.network.train(), small.record, path)
        network = onnx.load(path)
        xray = small.reference["image"], small.reference["edges"]
        logits = open_session(path, "cpu").run(
            None, dict(zip(("image", "edges"), xray, strict=True))
        )
        export_pipeline(pipeline.train(), small.record, path)
        whole = onnx.load(path)
        given = open_session(path, "cpu").run(["logits"], {"xray": small.reference["xray"]})
    finally:
        pipeline.eval()
    for model in (network, whole):
        assert "Dropout" not in {node.op_type for node in model.graph.node}
        assert "RandomUniformLike" not in {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(logits[0], small.reference["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(given[0], small.reference["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 65])
def test_onnx_matches_torch_for_odd_batches(small, batch):
    places = np.arange(batch) % len(small.inputs.kinds)
    session = open_session(small.files.path("pipeline"), "cpu")
    xrays = small.reference["xray"][places]
    logits, probabilities, edge_map, novelty = session.run(None, {"xray": xrays})
    expected = {name: values[places] for name, values in small.reference.items()}
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(edge_map, expected["edge_map"])
    np.testing.assert_allclose(novelty, expected["novelty"], rtol=1e-4, atol=1e-4)
    assert probabilities.shape == (batch, 4)


@pytest.mark.parametrize("opset", [17, 24])
def test_unsupported_opset_is_refused(small, tmp_path, opset):
    with pytest.raises(UsageError, match="choose 18 to 23"):
        export_network(small.pipeline.network, small.record, tmp_path / "x.onnx", opset)
    assert not list(tmp_path.iterdir())


class _Compared:
    """A graph that gives the network's inputs, beside the module that it was exported from."""

    def __init__(self, model, names, modules):
        self.names, self.modules = names, modules
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def assert_identical(self, xrays):
        for step in np.array_split(xrays, range(32, len(xrays), 32)):
            found = self.session.run(self.names, {"xray": step})
            for name, module, ours in zip(self.names, self.modules, found, strict=True):
                theirs = module(torch.from_numpy(step)).numpy()
                assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
                different = int((ours.view(np.uint32) != theirs.view(np.uint32)).sum())
                assert different == 0, f"{different} values of {name} differ"


def _edges_of(preprocessing):
    return lambda xray: preprocessing.edges(preprocessing.edge_map(xray))


def _alone(record, path):
    """The preprocessing exported by itself."""
    preprocessing = Preprocessing(record.preprocessing)
    (xray,), _ = pipeline_specs(4)
    outputs = network_specs(4)[0]
    _export(preprocessing, (xray,), outputs, record, path, OPSET)
    return _Compared(
        onnx.load(path), ["image", "edges"], [preprocessing.image, _edges_of(preprocessing)]
    )


def _in_the_pipeline(path, preprocessing):
    """What the two first convolutions of a pipeline graph are given, the ones of 11 x 11.

    Where the three grey channels are folded into one, the image is the resized X-ray.
    """
    model = onnx.load(path)
    weights = {each.name: list(each.dims) for each in model.graph.initializer}
    first = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and weights[node.input[1]][2:] == [11, 11]
    ]
    assert len(first) == 2
    shapes = {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim][1:]
        for each in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    modules = {
        (3, 256, 256): preprocessing.image,
        (1, 256, 256): preprocessing.resized,
        (1, 224, 224): _edges_of(preprocessing),
    }
    names = [node.input[0] for node in first]
    for name in names:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    found = [modules[tuple(shapes[name])] for name in names]
    assert found[0] is not found[1]
    return _Compared(model, names, found)


@pytest.fixture(scope="session", params=["default", "study", "pipeline"])
def graph_inputs(request, small, tmp_path_factory):
    """The preprocessing of each preset by itself, and as the served graph holds it."""
    if request.param == "pipeline":
        return _in_the_pipeline(small.files.path("pipeline"), small.pipeline.preprocessing)
    path = tmp_path_factory.mktemp("alone") / "alone.onnx"
    record = small.record
    if request.param == "study":
        assert (STUDY_EDGES.edge_mean, STUDY_EDGES.edge_std) == (0.449, 0.226)
        record = replace(record, preprocessing=STUDY_EDGES)
    compared = _alone(record, path)
    properties = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(properties["edge_mean"]) == record.preprocessing.edge_mean
    return compared


@pytest.mark.parametrize("kind", ["generated", "noise", "black", "white", "half", "one pixel"])
def test_graph_gives_the_same_bytes_of_both_inputs_as_torch(graph_inputs, kind):
    every = samples()
    graph_inputs.assert_identical(every.pixels[np.array(every.kinds) == kind])


def test_graph_gives_the_same_bytes_for_every_grey_level_and_faint_edges(graph_inputs):
    """Flat greys, and steps on both sides of the threshold of 10."""
    xrays = np.repeat(np.arange(0, 256, 5, dtype=np.uint8), 224 * 224).reshape(-1, 224, 224).copy()
    for height, xray in enumerate(xrays):
        xray[100:] = np.minimum(xray[100:].astype(int) + height % 8, 255)
    graph_inputs.assert_identical(xrays)


def test_graph_gives_the_same_bytes_for_real_xrays(graph_inputs, real_xrays):
    graph_inputs.assert_identical(real_xrays)

"""The exported graphs: what they take and give, one file each, and the very bytes of PyTorch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import export
from export.compare.samples import samples
from export.convert.onnx import IR_VERSION, OPSET, export_onnx, specs_of, write_graph
from export.convert.pipeline import Pipeline
from toolkit.errors import DefinitionError, UsageError
from toolkit.model.equivalence import TensorSpec
from toolkit.networks.preprocessing import Preprocessing
from toolkit.runtime.providers import open_session
from toolkit.train.recipes import STUDY_EDGES

XRAY = ("xray", "tensor(uint8)", ["batch", 224, 224])
EDGE_MAP = ("edge_map", "tensor(uint8)", ["batch", 224, 224])
IMAGE = ("image", "tensor(float)", ["batch", 3, 256, 256])
EDGES = ("edges", "tensor(float)", ["batch", 1, 224, 224])
LOGITS = ("logits", "tensor(float)", ["batch", 4])
PROBABILITIES = ("probabilities", "tensor(float)", ["batch", 4])
NOVELTY = ("novelty", "tensor(float)", ["batch"])
GRAPHS = {
    "network": ([IMAGE, EDGES], [LOGITS]),
    "pipeline": ([XRAY], [LOGITS, PROBABILITIES, EDGE_MAP, NOVELTY]),
    "explainer": ([XRAY, EDGE_MAP], [LOGITS]),
}


def _weights(graph):
    return {value.name: list(value.dims) for value in graph.initializer}


def _first_convolutions(graph):
    """The ones of 11 x 11."""
    weights = _weights(graph)
    found = [
        node
        for node in graph.node
        if node.op_type == "Conv" and weights[node.input[1]][2:] == [11, 11]
    ]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("kind", GRAPHS)
def test_graphs_take_and_give_what_they_should(small, kind):
    session = open_session(small.files.path(kind), "cpu")
    found = [
        [(value.name, value.type, value.shape) for value in values]
        for values in (session.get_inputs(), session.get_outputs())
    ]
    assert tuple(found) == GRAPHS[kind]


@pytest.mark.parametrize("kind", GRAPHS)
def test_opset_and_ir_version_suit_the_oldest_onnxruntime(small, kind):
    model = onnx.load(small.files.path(kind))
    assert [(used.domain, used.version) for used in model.opset_import] == [("", OPSET)]
    assert OPSET == 20
    assert model.ir_version == IR_VERSION <= 10
    assert small.record.export.artifacts[kind].opset == OPSET


@pytest.mark.parametrize("kind", GRAPHS)
def test_one_file_holds_everything(small, kind, tmp_path):
    model = onnx.load(small.files.path(kind), load_external_data=False)
    assert not [value.name for value in model.graph.initializer if value.external_data]
    endings = ("explainer.onnx", "golden.npz", "json", "onnx", "pipeline.onnx", "pt", "scope.pt")
    names = sorted(path.name for path in small.files.folder.iterdir())
    assert names == [f"small.{ending}" for ending in endings]
    open_session(Path(shutil.copy(small.files.path(kind), tmp_path / "alone.onnx")), "cpu")


@pytest.mark.parametrize("kind", GRAPHS)
def test_file_names_no_folder_of_the_machine_that_made_it(small, kind):
    content = small.files.path(kind).read_bytes()
    for module in (export, torch):
        assert str(Path(module.__path__[0]).parent).encode() not in content


@pytest.mark.parametrize("kind", GRAPHS)
def test_metadata_says_what_the_model_is(small, kind):
    model = onnx.load(small.files.path(kind))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    constants = small.record.preprocessing
    assert properties["name"] == "small"
    assert json.loads(properties["classes"]) == ["none", "minimal", "moderate", "severe"]
    assert json.loads(properties["grades"]) == [[0], [2], [3], [4]]
    assert json.loads(properties["image_mean"]) == list(constants.image_mean)
    assert json.loads(properties["edge_mean"]) == constants.edge_mean
    assert json.loads(properties["edge_std"]) == constants.edge_std
    assert properties["checkpoint_sha256"] == small.record.training.checkpoint_sha256
    assert properties["temperature"] == "1.7"
    assert properties["torch_version"] == torch.__version__
    assert properties["licence"] == "Apache-2.0"


def test_first_convolution_of_the_pipeline_is_over_one_channel(small):
    graph = onnx.load(small.files.path("pipeline")).graph
    weights = _weights(graph)
    first = [weights[node.input[1]] for node in _first_convolutions(graph)]
    assert first == [[8, 1, 11, 11], [8, 1, 11, 11]]
    (bias_map,) = [dims for name, dims in weights.items() if name.endswith("bias_map")]
    assert bias_map == [1, 8, 63, 63]
    # The network alone keeps the three channels that its callers give it.
    network = onnx.load(small.files.path("network")).graph
    assert [8, 3, 11, 11] in _weights(network).values()


def test_probabilities_are_tempered_and_logits_are_not(small):
    session = open_session(small.files.path("pipeline"), "cpu")
    logits, probabilities = session.run(["logits", "probabilities"], {"xray": small.inputs.pixels})
    with torch.no_grad():
        inputs = [torch.from_numpy(small.arrays[name]) for name in ("image", "edges")]
        plain = small.pipeline.network(*inputs).numpy()
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-4)
    assert small.record.temperature == 1.7
    powers = np.exp(logits.astype(np.float64) / 1.7)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_what_is_exported_is_in_evaluation_mode_whatever_it_was_made_of(small):
    network = Pipeline(small.pipeline)
    try:
        assert not any(module.training for module in Pipeline(network.train().fast()).modules())
    finally:
        network.eval()


@pytest.mark.full
def test_live_dropout_is_never_exported(small, tmp_path):
    """Also of a module in training mode."""
    network = Pipeline(small.pipeline)
    try:
        export_onnx("network", network.train(), small.record, tmp_path / "training.onnx")
    finally:
        network.eval()
    types = {node.op_type for node in onnx.load(tmp_path / "training.onnx").graph.node}
    assert not types & {"Dropout", "RandomUniformLike"}
    feed = {name: small.arrays[name] for name in ("image", "edges")}
    (logits,) = open_session(tmp_path / "training.onnx", "cpu").run(None, feed)
    np.testing.assert_allclose(logits, small.arrays["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 65])
def test_onnx_matches_torch_for_odd_batches(small, batch):
    places = np.arange(batch) % len(small.inputs.kinds)
    session = open_session(small.files.path("pipeline"), "cpu")
    found = session.run(None, {"xray": small.inputs.pixels[places]})
    logits, probabilities, edge_map, novelty = found
    expected = {name: values[places] for name, values in small.arrays.items()}
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(edge_map, expected["edge_map"])
    np.testing.assert_allclose(novelty, expected["novelty"], rtol=1e-4, atol=1e-4)
    assert probabilities.shape == (batch, 4)


@pytest.mark.parametrize("opset", [17, 24])
def test_unsupported_opset_is_refused(small, tmp_path, opset):
    with pytest.raises(UsageError, match="choose 18 to 23"):
        export_onnx("network", small.pipeline, small.record, tmp_path / "x.onnx", opset)
    assert not list(tmp_path.iterdir())


class Rows(nn.Module):
    """A recurrent network in half precision, but for what it begins with."""

    def __init__(self):
        super().__init__()
        self.rows = nn.GRU(4, 3, batch_first=True).half()

    def forward(self, values):
        first = torch.zeros(1, values.shape[0], 3)
        return self.rows(values.half(), first)[0].float()


def test_a_graph_whose_types_do_not_fit_is_told_in_one_line(small, tmp_path):
    taken = TensorSpec("values", "float32", ("batch", 2, 4))
    given = TensorSpec("rows", "float32", ("batch", 2, 3))
    specs = ((taken,), (given,))
    with pytest.raises(
        DefinitionError, match=r"test_onnx.py:\d+ Rows: cannot be .* in fp16: Infer"
    ):
        write_graph(Rows(), specs, small.record, tmp_path / "rows.onnx", precision="fp16")
    assert not [*tmp_path.iterdir()]


def _preprocessing_graph(small, constants, path):
    """The preprocessing exported by itself, and PyTorch's functions by the names of its outputs."""
    preprocessing, record = Preprocessing(constants), replace(small.record, preprocessing=constants)
    (inputs, _), (outputs, _) = (specs_of(kind, small.pipeline) for kind in ("pipeline", "network"))
    write_graph(preprocessing, (inputs, outputs), record, path)
    model = onnx.load(path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["edge_mean"]) == constants.edge_mean
    return model, {
        "image": preprocessing.image,
        "edges": lambda xray: preprocessing.edges(preprocessing.edge_map(xray)),
    }


def _served_graph(small):
    """The pipeline, and PyTorch's functions by what its two first convolutions are given."""
    model = onnx.load(small.files.path("pipeline"))
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][-1:]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    preprocessing = small.pipeline.preprocessing
    functions = {
        256: preprocessing.resized,
        224: lambda xray: preprocessing.edges(preprocessing.edge_map(xray)),
    }
    names = [node.input[0] for node in _first_convolutions(model.graph)]
    for name in names:
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(output)
    assert {shapes[name][0] for name in names} == functions.keys()
    return model, {name: functions[shapes[name][0]] for name in names}


@pytest.fixture(scope="module", params=["default", "study", "served"])
def assert_same_bytes(request, small, tmp_path_factory):
    """Return a function that compares the network's inputs: of each preset, and as served."""
    if request.param == "served":
        model, functions = _served_graph(small)
    else:
        constants = {"default": small.record.preprocessing, "study": STUDY_EDGES}[request.param]
        path = tmp_path_factory.mktemp("alone") / "alone.onnx"
        model, functions = _preprocessing_graph(small, constants, path)
    session = open_session(model.SerializeToString(), "cpu")

    def compare(xrays):
        for step in np.array_split(xrays, range(32, len(xrays), 32)):
            found = session.run(list(functions), {"xray": step})
            for (name, function), ours in zip(functions.items(), found, strict=True):
                theirs = function(torch.from_numpy(step)).numpy()
                assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
                different = int((ours.view(np.uint32) != theirs.view(np.uint32)).sum())
                assert different == 0, f"{different} values of {name} differ"

    return compare


def test_graph_gives_the_same_bytes_of_both_inputs_as_torch(assert_same_bytes):
    assert (STUDY_EDGES.edge_mean, STUDY_EDGES.edge_std) == (0.449, 0.226)
    assert_same_bytes(samples().pixels)


def test_graph_gives_the_same_bytes_for_every_grey_level_and_faint_edges(assert_same_bytes):
    """Flat greys, and steps on both sides of the threshold of 10."""
    xrays = np.repeat(np.arange(0, 256, 5, dtype=np.uint8), 224 * 224).reshape(-1, 224, 224).copy()
    for height, xray in enumerate(xrays):
        xray[100:] = np.minimum(xray[100:].astype(int) + height % 8, 255)
    assert_same_bytes(xrays)


def test_graph_gives_the_same_bytes_for_real_xrays(assert_same_bytes, real_xrays):
    assert_same_bytes(real_xrays)

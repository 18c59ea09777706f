"""Half precision and 8-bit integers: the same function, and kept only where the gate passes."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import export
from export.compare.artifact import compare_file, reference_of
from export.compare.gate import gate_samples
from export.convert.onnx import specs_of
from export.convert.precisions import export_int8
from export.verify import verify
from toolkit.errors import DataError, ModelRefusedError, UsageError
from toolkit.model import manifest
from toolkit.model.artifacts import load_golden
from toolkit.model.files import ModelFiles
from toolkit.runtime.golden import difference
from toolkit.runtime.providers import open_session
from toolkit.runtime.session import open_model


@pytest.fixture(scope="module")
def halved(small, comparing_few, graded_folder, tmp_path_factory):
    """The model with a proven file of half precision, and what its export came to."""
    folder = tmp_path_factory.mktemp("halved") / "models"
    files = ModelFiles(shutil.copytree(small.files.folder, folder), small.files.name)
    options = export.Options(data=graded_folder, precision="fp16")
    with comparing_few():
        return files, export.export("onnx", files, files, options)


@pytest.fixture
def half(halved, tmp_path):
    """Its files in a folder of their own, to be changed."""
    return ModelFiles(shutil.copytree(halved[0].folder, tmp_path / "half"), halved[0].name)


@pytest.fixture(scope="module")
def graded(small, graded_folder):
    """The X-rays that a lower precision is calibrated with and judged by."""
    return gate_samples(graded_folder, small.record)


def _run(path, pixels):
    names = ["logits", "edge_map", "novelty"]
    return dict(zip(names, open_session(path, "cpu").run(names, {"xray": pixels}), strict=True))


def test_half_precision_is_proven_by_its_classes_and_edges(halved, graded):
    files, result = halved
    leg = result.legs["fp16"]
    assert result.passed, leg.failures
    assert leg.gate.samples == len(graded.labels) > 10
    assert leg.gate.agreement >= 0.995 and leg.gate.scope_agreement >= 0.995
    assert sum(leg.gate.counts) == leg.gate.samples
    assert leg.outputs[3].output == "novelty" and 0 < leg.outputs[3].max_abs < 0.05
    assert leg.outputs[2].output == "edge_map" and leg.outputs[2].max_abs == 0
    assert 1e-6 < leg.outputs[0].max_abs < 0.05, "half precision, and no worse"
    record = manifest.load(files.manifest)
    assert set(record.export.artifacts) == {"network", "pipeline", "explainer", "fp16"}
    path = files.path("fp16")
    assert path.name == "small.fp16.pipeline.onnx"
    assert path.stat().st_size < 0.75 * files.path("pipeline").stat().st_size
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties["precision"] == "fp16" and properties["name"] == "small"


def test_verifying_without_graded_xrays_keeps_the_leg_of_the_file_that_had_them(
    halved, half, few_xrays
):
    del few_xrays
    result = verify(half, None, None)
    assert result.passed and result.legs["fp16"] == halved[1].legs["fp16"]
    open_model(half.folder, half.name, kind="fp16")
    half.path("fp16").write_bytes(half.path("fp16").read_bytes()[:-1])
    assert not verify(half, None, None).legs["fp16"].passed
    with pytest.raises(ModelRefusedError):
        open_model(half.folder, half.name, kind="fp16")
    open_model(half.folder, half.name)


def test_probabilities_that_are_not_the_softmax_of_the_logits_are_never_proven(
    half, few_xrays, small, edited, graded_folder
):
    """The gate judges logits; what is served are probabilities."""
    del few_xrays

    def negate(graph):
        place, softmax = next(
            (i, node) for i, node in enumerate(graph.node) if node.op_type == "Softmax"
        )
        graph.node.insert(place, onnx.helper.make_node("Neg", [softmax.input[0]], ["negative"]))
        softmax.input[0] = "negative"

    path, record = half.path("fp16"), manifest.load(half.manifest)
    edited(path, negate)
    reference = reference_of(small.pipeline, record, graded_folder, ["fp16"])
    leg = compare_file("fp16", path, specs_of("fp16", small.pipeline), reference)
    assert not leg.passed and "softmax(logits / T)" in leg.failures[-1]
    session = open_session(path, "cpu")
    found = difference(
        load_golden(half, record),
        ["logits", "probabilities"],
        lambda names, batch: dict(zip(names, session.run(names, {"xray": batch}), strict=True)),
        gated=True,
    )
    assert found == "a golden X-ray is put in another class by its probabilities"


def test_a_lower_precision_without_xrays_or_format_is_refused(small):
    for format_name, precision, error, said in (
        ("onnx", "int8", DataError, "--data"),
        ("pt2", "fp16", UsageError, "pt2 has no precision fp16"),
    ):
        with pytest.raises(error, match=said):
            export.export(
                format_name, small.files, small.files, export.Options(precision=precision)
            )


@pytest.fixture(scope="module")
def bytewise(small, graded, tmp_path_factory):
    """The model's graph in 8 bits."""
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    export_int8(small.pipeline, small.record, path, graded.calibration)
    return path


@pytest.mark.full
def test_int8_computes_the_inner_convolutions_in_integers(small, graded, bytewise):
    model = onnx.load(bytewise)
    assert ("precision", "int8") in [(entry.key, entry.value) for entry in model.metadata_props]
    givers = {name: node.op_type for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = Counter(givers.get(node.input[1]) for node in convolutions)
    assert weights == {"DequantizeLinear": 3, None: 5}, "the resize is one as well"
    found, expected = (
        _run(bytewise, graded.pixels),
        _run(small.files.path("pipeline"), graded.pixels),
    )
    assert np.array_equal(found["edge_map"], expected["edge_map"])
    error = np.abs(found["logits"] - expected["logits"])
    assert 0 < error.mean() < 0.03 * expected["logits"].std(), "8 bits, and no worse"
    assert 0 < np.abs(found["novelty"] - expected["novelty"]).max() < 0.05
    assert abs((found["novelty"] - expected["novelty"]).mean()) < 0.005


@pytest.mark.full
def test_no_sum_of_two_products_leaves_16_bits(bytewise, graded):
    """Where there is no VNNI, processors add them up in 16 bits, and would cut them off."""
    model = onnx.load(bytewise)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    weights = [
        arrays[node.input[0]].astype(int)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in arrays
        and arrays[node.input[0]].ndim == 4
    ]
    assert len(weights) == 3
    for weight in weights:
        assert np.abs(weight).max() > 32 and 2 * 255 * np.abs(weight).max() <= 2**15 - 1
    # What is not optimised multiplies in floats, as no processor could cut it off.
    logits = [
        open_session(bytewise, "cpu", optimised=optimised).run(["logits"], {"xray": graded.pixels})
        for optimised in (True, False)
    ]
    spread = logits[0][0].std()
    assert np.abs(logits[0][0] - logits[1][0]).max() < 0.02 * spread


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.full)])
def test_a_file_that_changes_classes_is_not_kept(
    halved, copied, few_xrays, changed, graded_folder, monkeypatch, precision
):
    del few_xrays

    def write(*arguments):
        (path,) = [argument for argument in arguments if isinstance(argument, Path)]
        shutil.copy(halved[0].path("fp16"), path)
        by = np.array([0, 100, 0, 0], np.float16)
        changed(path, "outputCombiner.8.bias", lambda array: array + by)

    for name in ("export_onnx", "export_int8"):
        monkeypatch.setattr(export, name, write)
    options = export.Options(data=graded_folder, precision=precision)
    result = export.export("onnx", copied, copied, options)
    assert not result.passed
    assert any("change their class" in line for line in result.legs[precision].failures)
    assert not copied.path(precision).exists()
    kept = manifest.load(copied.manifest).export.artifacts
    assert set(kept) == {"network", "pipeline", "explainer"}

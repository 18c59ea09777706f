"""Half precision and 8-bit integers: the same function, and kept only where the gate passes."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from export.compare.artifacts import compare_file, reference_of, specs_of
from export.compare.gate import NO_XRAYS, gate
from export.compare.graded import graded
from export.convert.equalisation import equalised
from export.convert.onnx import export_packed
from export.convert.packing import PackedPipeline
from export.convert.pipeline import Pipeline
from export.convert.precisions import quantize_int8
from export.export import Options, export
from export.verify import verify
from toolkit.commands import data as generation
from toolkit.errors import DataError, ModelRefusedError, UsageError
from toolkit.model import manifest
from toolkit.model.artifacts import load_golden
from toolkit.model.files import ModelFiles
from toolkit.networks.preprocessing import Preprocessing
from toolkit.runtime.golden import difference
from toolkit.runtime.session import open_model, open_session

CLASSES = ("none", "minimal", "moderate", "severe")


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    """A folder of generated X-rays, graded, in train, val and test."""
    folder = tmp_path_factory.mktemp("graded") / "xrays"
    generation.generate(folder, count=160, seed=3)
    return folder


@pytest.fixture(scope="module")
def halved(small, xrays, tmp_path_factory):
    """The model with a proven file of half precision, and what its export came to."""
    folder = tmp_path_factory.mktemp("halved") / "models"
    shutil.copytree(small.files.folder, folder)
    files = ModelFiles(folder, small.files.name)
    return files, export("onnx", files, files, Options(data=xrays, precision="fp16"))


@pytest.fixture
def half(halved, tmp_path):
    """Its files in a folder of their own, to be changed."""
    return ModelFiles(shutil.copytree(halved[0].folder, tmp_path / "models"), halved[0].name)


def _run(path, pixels):
    names = ["logits", "probabilities", "edge_map"]
    return dict(zip(names, open_session(path, "cpu").run(names, {"xray": pixels}), strict=True))


def test_half_precision_is_proven_by_its_classes_and_edges(halved, xrays):
    copied, verdict = halved
    leg = verdict.legs["fp16"]
    assert verdict.passed, leg.failures
    assert leg.gate.samples == len(graded(xrays, verdict.record).labels) > 10
    assert leg.gate.agreement >= 0.995
    assert leg.outputs[2].output == "edge_map" and leg.outputs[2].max_abs == 0
    assert 1e-6 < leg.outputs[0].max_abs < 0.05, "half precision, and no worse"
    record = manifest.load(copied.manifest)
    assert set(record.export.artifacts) == {"network", "pipeline", "explainer", "fp16"}
    path = copied.path("fp16")
    assert path.name == "small.fp16.pipeline.onnx"
    assert path.stat().st_size < 0.75 * copied.path("pipeline").stat().st_size
    properties = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert properties["precision"] == "fp16" and properties["name"] == "small"


def test_verifying_without_graded_xrays_keeps_the_verdict_over_the_file_that_had_them(halved, half):
    before, copied = halved[1].legs["fp16"], half
    verdict = verify(copied, None, None)
    assert verdict.passed and verdict.legs["fp16"] == before
    open_model(copied.folder, copied.name, kind="fp16")
    copied.path("fp16").write_bytes(copied.path("fp16").read_bytes()[:-1])
    assert not verify(copied, None, None).legs["fp16"].passed
    with pytest.raises(ModelRefusedError):
        open_model(copied.folder, copied.name, kind="fp16")
    open_model(copied.folder, copied.name)


def test_probabilities_that_are_not_the_softmax_of_the_logits_are_never_proven(
    halved, half, small, xrays
):
    """The gate judges logits; what is served are probabilities."""
    record, copied = halved[1].record, half
    path = copied.path("fp16")
    model = onnx.load(path)
    (softmax,) = [node for node in model.graph.node if node.op_type == "Softmax"]
    place = list(model.graph.node).index(softmax)
    model.graph.node.insert(place, onnx.helper.make_node("Neg", [softmax.input[0]], ["negative"]))
    softmax.input[0] = "negative"
    onnx.save(model, path)
    reference = reference_of(small.pipeline, record, xrays, ["fp16"])
    leg = compare_file("fp16", path, specs_of("fp16", small.pipeline), reference)
    assert not leg.passed and "softmax(logits / T)" in leg.failures[-1]
    session = open_session(path, "cpu")
    found = difference(
        load_golden(copied, record),
        ["logits", "probabilities"],
        lambda names, batch: dict(zip(names, session.run(names, {"xray": batch}), strict=True)),
        gated=True,
    )
    assert found == "a golden X-ray is put in another class by its probabilities"


def test_a_lower_precision_without_xrays_or_format_is_refused(copied):
    with pytest.raises(DataError, match="--data"):
        export("onnx", copied, copied, Options(precision="int8"))
    with pytest.raises(UsageError, match="pt2 has no precision fp16"):
        export("pt2", copied, copied, Options(precision="fp16"))


def test_int8_computes_all_but_the_last_convolutions_in_integers(small, xrays, tmp_path):
    packed, path = tmp_path / "packed.onnx", tmp_path / "int8.onnx"
    export_packed(small.pipeline, small.record, packed)
    content = graded(xrays, small.record)
    quantize_int8(packed, path, content.calibration)
    model = onnx.load(path)
    givers = {name: node.op_type for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = Counter(givers.get(node.input[1]) for node in convolutions)
    assert weights == {"DequantizeLinear": 5, None: 3}, "the resize is one as well"
    found, expected = _run(path, content.pixels), _run(packed, content.pixels)
    assert np.array_equal(found["edge_map"], expected["edge_map"])
    spread = expected["logits"].std()
    error = np.abs(found["logits"] - expected["logits"])
    assert 0 < error.mean() < 0.05 * spread, "8 bits, and no worse"
    # The inputs are grey levels, which 8 bits hold exactly: the edges' scale is 1.
    scales = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    assert any(each.ndim == 0 and float(each) == 1.0 for each in scales if each.dtype == "float32")


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.full)])
def test_a_file_that_changes_classes_is_not_kept(copied, xrays, monkeypatch, precision):
    def wrong(source, target, calibration=None):
        del calibration
        model = onnx.load(source)
        (bias,) = [
            each for each in model.graph.initializer if each.name.endswith("outputCombiner.8.bias")
        ]
        array = onnx.numpy_helper.to_array(bias).copy()
        array[1] += 100
        bias.CopyFrom(onnx.numpy_helper.from_array(array, bias.name))
        onnx.save(model, target)

    name = "convert_fp16" if precision == "fp16" else "quantize_int8"
    monkeypatch.setattr(f"export.export.{name}", wrong)
    verdict = export("onnx", copied, copied, Options(data=xrays, precision=precision))
    assert not verdict.passed
    assert any("change their class" in line for line in verdict.legs[precision].failures)
    assert not copied.path(precision).exists()
    assert set(manifest.load(copied.manifest).export.artifacts) == {
        "network",
        "pipeline",
        "explainer",
    }


def test_packing_is_exact_where_the_channels_share_one_mean(small):
    """Only then is there one level that stands for the zeros outside of the X-ray."""
    constants = replace(
        small.record.preprocessing, image_mean=(0.4,) * 3, image_std=(0.2, 0.25, 0.3)
    )
    pipeline = Pipeline(Preprocessing(constants), small.pipeline.network)
    xrays = torch.from_numpy(small.inputs.pixels)
    with torch.no_grad():
        expected, found = pipeline(xrays), PackedPipeline(pipeline)(xrays)
    assert (found[0] - expected[0]).abs().max() < 1e-4 * expected[0].abs().max()
    assert torch.equal(found[2], expected[2])


def test_equalisation_keeps_the_function(small, xrays, tmp_path):
    path, equal = tmp_path / "packed.onnx", tmp_path / "equal.onnx"
    export_packed(small.pipeline, small.record, path)
    content = graded(xrays, small.record)
    onnx.save(equalised(onnx.load(path), [content.calibration]), equal)
    before, after = onnx.load(path), onnx.load(equal)
    pairs = zip(before.graph.initializer, after.graph.initializer, strict=True)
    assert any(each.raw_data != other.raw_data for each, other in pairs)
    found, expected = _run(equal, content.pixels)["logits"], _run(path, content.pixels)["logits"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def _logits(classes):
    return np.eye(4, dtype=np.float32)[np.asarray(classes)]


def test_the_gate_counts_classes_recalls_and_kappa():
    labels = np.repeat(np.arange(4), 250)
    same = gate(_logits(labels), _logits(labels), labels, CLASSES)
    assert same.failures == () and same.agreement == 1.0 and same.samples == 1000
    moved = labels.copy()
    moved[:4] = 3  # 0.4 % of all, 1.6 % of the first class
    result = gate(_logits(labels), _logits(moved), labels, CLASSES)
    assert result.agreement == 0.996
    assert result.recall_points == pytest.approx((-1.6, 0, 0, 0))
    assert any(
        line.startswith("recall of none differs by -1.60 points") for line in result.failures
    )
    moved[:6] = 3
    result = gate(_logits(labels), _logits(moved), labels, CLASSES)
    assert "6 of 1000 graded X-rays change their class" in result.failures[0]
    assert any(line.startswith("kappa differs by -") for line in result.failures)


def test_the_gate_passes_nothing_that_it_cannot_judge():
    labels = np.arange(4)
    none = gate(_logits(labels)[:0], _logits(labels)[:0], labels[:0], CLASSES)
    assert none.failures == (NO_XRAYS,)
    spoiled = _logits(labels)
    spoiled[0, 0] = np.nan
    assert "not finite" in gate(_logits(labels), spoiled, labels, CLASSES).failures[0]


def test_xrays_without_parts_to_judge_by_are_refused(small, png_folder):
    flat = png_folder("0/1L", "2/1R", "3/1M")
    with pytest.raises(DataError, match="to calibrate with, and of val or test"):
        graded(flat, replace(small.record, dataset=None))

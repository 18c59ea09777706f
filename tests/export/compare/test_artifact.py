"""The comparison of files: what is equal passes, and every planted fault is named."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from export.compare import artifact
from export.compare.artifact import compare_file, reference_arrays
from export.compare.measurement import BATCHES
from export.compare.samples import samples
from export.convert.onnx import specs_of
from toolkit.errors import ModelRefusedError
from toolkit.files import sha256
from toolkit.runtime.providers import open_session

KINDS = ("network", "pipeline")


@pytest.fixture(scope="module")
def whole(small):
    """The reference on all X-rays of a check."""
    inputs = samples()
    arrays = reference_arrays(small.pipeline, inputs)
    return replace(small.reference, samples=inputs, arrays=arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_graphs_pass_in_batches_of_1_2_7_and_64(small, whole, kind, monkeypatch):
    sizes = set()

    def spy(*arguments, **options):
        session = open_session(*arguments, **options)

        def run(names, feed):
            sizes.add(len(next(iter(feed.values()))))
            return session.run(names, feed)

        asked = {name: getattr(session, f"get_{name}") for name in ("inputs", "outputs")}
        return SimpleNamespace(
            run=run,
            get_inputs=asked["inputs"],
            get_outputs=asked["outputs"],
            get_providers=session.get_providers,
        )

    monkeypatch.setattr(artifact, "open_session", spy)
    specs = specs_of(kind, small.pipeline)
    leg = compare_file(kind, small.files.path(kind), specs, whole)
    assert leg.passed and not leg.failures, leg
    assert leg.batches == BATCHES == (1, 2, 7, 64)
    assert set(BATCHES) <= sizes
    assert [output.output for output in leg.outputs] == [spec.name for spec in specs[1]]
    assert all(0 <= output.mean_abs <= output.max_abs < 1e-3 for output in leg.outputs)
    assert leg.argmax_agreement == 1.0 and leg.samples == len(whole.samples.kinds) >= 64
    assert leg.provider == "CPUExecutionProvider"


def _rename(graph, names):
    for node in graph.node:
        for values in (node.output, node.input):
            values[:] = [names.get(name, name) for name in values]


def _renamed(graph):
    graph.output[0].name = "scores"
    _rename(graph, {"logits": "scores"})


def _wrong_dtype(graph):
    _rename(graph, {"logits": "single"})
    graph.node.append(helper.make_node("Cast", ["single"], ["logits"], to=TensorProto.DOUBLE))
    graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def _fixed_batch(graph):
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_renamed, "outputs are scores float32 ['batch', 4]"),
        (_wrong_dtype, "outputs are logits tensor(double) ['batch', 4]"),
        (_fixed_batch, "expected logits float32 ['batch', 4]"),
    ],
)
def test_names_dtypes_and_shapes_come_before_values(copied, edited, leg_of, kind, fault, said):
    edited(copied.path(kind), fault)
    leg = leg_of(kind, copied.path(kind))
    assert not leg.passed
    assert any(said in line for line in leg.failures), leg.failures
    assert leg.outputs == () and leg.argmax_agreement == 0.0


def test_swapped_inputs_are_found(copied, edited, leg_of):
    def swap(graph):
        image, edges = copy.deepcopy(list(graph.input))
        del graph.input[:]
        graph.input.extend([edges, image])

    edited(copied.path("network"), swap)
    leg = leg_of("network", copied.path("network"))
    assert not leg.passed and leg.failures[0].startswith("inputs are edges float32")


def test_swapped_outputs_are_found(copied, edited, leg_of):
    """Logits under the name of probabilities, and the other way round."""
    names = {"logits": "probabilities", "probabilities": "logits"}
    edited(copied.path("pipeline"), lambda graph: _rename(graph, names))
    leg = leg_of("pipeline", copied.path("pipeline"))
    assert not leg.passed
    failed = {output.output for output in leg.outputs if not output.passed}
    assert failed >= {"logits", "probabilities"}


def test_file_that_onnxruntime_cannot_open_is_refused(copied, leg_of):
    path = copied.path("network")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelRefusedError, match="cannot open"):
        leg_of("network", path)


def test_a_file_over_which_onnxruntime_ends_the_process_is_refused(small, tmp_path, monkeypatch):
    fault = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    (tmp_path / "sitecustomize.py").write_text(fault)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    specs = specs_of("fp16", small.pipeline)
    with pytest.raises(ModelRefusedError, match=r"SIGSEGV as it opens .* in fp16: export it in"):
        compare_file("fp16", small.files.path("pipeline"), specs, small.reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_never_pass_though_torch_gives_them_too(
    small, copied, changed, leg_of, kind, value
):
    def plant(array):
        array[..., 0] = value
        return array

    changed(copied.path(kind), "outputCombiner.8.bias", plant)
    for logits in (small.arrays["logits"], plant(small.arrays["logits"].copy())):
        leg = leg_of(kind, copied.path(kind), logits=logits)
        assert not leg.passed
        assert not leg.outputs[0].passed and leg.outputs[0].max_abs == -1.0
        assert re.search(r"logits in batches of 1: .* by (nan|inf)", leg.failures[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["imagesClassifier.0.weight", "edgesClassifier.4.weight"])
def test_one_perturbed_weight_is_found_by_name(small, copied, changed, leg_of, kind, weight):
    def perturb(array):
        array.flat[np.abs(array).argmax()] *= 1.01
        return array

    changed(copied.path(kind), weight, perturb)
    leg = leg_of(kind, copied.path(kind))
    assert not leg.passed and leg.file == copied.path(kind).name
    found = re.fullmatch(
        r"logits in batches of 1: (\d+) of 6 X-rays differ, most of all number (\d+) "
        r"\(([a-z ]+)\) by ([0-9.e-]+); allowed 1e-5 \* max\(1, max \|logit\| of that X-ray\)",
        leg.failures[0],
    )
    assert found, leg.failures
    assert small.inputs.kinds[int(found[2])] == found[3]
    assert 1e-5 < float(found[4]) == pytest.approx(leg.outputs[0].max_abs, rel=0.01)
    assert not leg.outputs[0].passed


@pytest.mark.parametrize(
    ("constant", "factor", "output"),
    [
        ("preprocessing.edge_mean", 1.001, "logits"),
        ("preprocessing.edge_std", 1.001, "logits"),
        ("preprocessing.resize_scale", 1.0001, "logits"),
        ("preprocessing.white", 0.99, "edge_map"),
        ("scope.centre", 1.01, "novelty"),
        ("scope.spread", 1.01, "novelty"),
        ("imagesClassifier.0.weight", 0.224 / 0.225, "logits"),
        ("imagesClassifier.0.weight", 1 / 3, "logits"),
        ("imagesClassifier.0.bias_map", 0.0, "logits"),
        ("imagesClassifier.0.bias_map", 1.001, "logits"),
    ],
)
def test_wrong_constant_and_wrong_fold_are_found(copied, changed, leg_of, constant, factor, output):
    path = copied.path("pipeline")
    changed(path, constant, lambda array: np.asarray(array * factor, array.dtype))
    leg = leg_of("pipeline", path)
    assert not leg.passed
    assert output in {measured.output for measured in leg.outputs if not measured.passed}
    assert any(line.startswith(f"{output} in batches of") for line in leg.failures)


def test_a_fold_without_borders_is_found(copied, changed, leg_of):
    path = copied.path("pipeline")

    def one_number_a_channel(array):
        return np.broadcast_to(array[:, :, 31:32, 31:32], array.shape).copy()

    changed(path, "imagesClassifier.0.bias_map", one_number_a_channel)
    assert leg_of("pipeline", path).failures[0].startswith("logits in batches of 1")


def test_wrong_edge_threshold_is_found_in_the_edge_map(copied, edited, leg_of):
    def raise_threshold(graph):
        (greater,) = [node for node in graph.node if node.op_type == "Greater"]
        graph.initializer.append(helper.make_tensor("eleven", TensorProto.FLOAT, [], [11.0]))
        greater.input[1] = "eleven"

    edited(copied.path("pipeline"), raise_threshold)
    leg = leg_of("pipeline", copied.path("pipeline"))
    assert not leg.passed
    edge_map = leg.outputs[2]
    assert edge_map.output == "edge_map" and not edge_map.passed and edge_map.max_abs >= 1
    assert any("edge_map" in line and "allowed identical" in line for line in leg.failures)


def test_fault_that_only_shows_in_larger_batches_is_found(copied, edited, leg_of):
    """A graph that mixes the X-rays of a batch is right for batches of 1."""

    def mix(graph):
        _rename(graph, {"logits": "alone"})
        graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
        graph.node.append(helper.make_node("ReduceMax", ["alone", "first"], ["largest"]))
        graph.node.append(helper.make_node("Max", ["alone", "largest"], ["logits"]))

    edited(copied.path("network"), mix)
    leg = leg_of("network", copied.path("network"))
    assert not leg.passed
    found = [re.search(r"batches of (\d+)", line) for line in leg.failures]
    assert {size[1] for size in found if size} == {"2", "7", "64"}


def test_model_of_large_logits_passes_within_the_scaled_tolerance(small, copied, changed, leg_of):
    """Times 2**14 scales logits and differences exactly: what was within the bound stays so."""
    path, factor = copied.path("network"), np.float32(2.0**14)
    for name in ("outputCombiner.8.weight", "outputCombiner.8.bias"):
        changed(path, name, lambda array: array * factor)
    scaled = small.arrays["logits"] * factor
    assert np.abs(scaled).max() > 1000
    leg = leg_of("network", path, logits=scaled)
    assert leg.passed, leg.failures
    assert leg.outputs[0].max_abs > 1e-5
    assert not leg_of("network", path).passed, "the same amount on logits of ordinary size"


def test_probabilities_are_not_bounded_on_extreme_inputs_but_must_be_finite(small, leg_of):
    """Of a difference on noise alone, only the logits and the edge map are held against it."""
    extreme = ~small.inputs.natural
    assert extreme.any() and small.inputs.natural.any()
    for where, by, passes in (
        (extreme, 1e-3, True),
        (np.flatnonzero(extreme)[0], np.nan, False),
        (np.flatnonzero(small.inputs.natural)[0], 1e-4, False),
    ):
        moved = small.arrays["probabilities"].copy()
        moved[where] += np.float32(by)
        leg = leg_of("pipeline", small.files.path("pipeline"), probabilities=moved)
        assert leg.passed is passes


def test_references_are_those_of_the_served_module_in_evaluation_mode(small):
    xray = torch.from_numpy(small.inputs.pixels)
    with torch.no_grad():
        logits = small.pipeline.network.eval()(*small.pipeline.preprocessing(xray))
    np.testing.assert_allclose(small.arrays["logits"], logits.numpy(), rtol=1e-6, atol=1e-6)
    softmax = torch.softmax(logits / small.record.temperature, dim=1).numpy()
    np.testing.assert_allclose(small.arrays["probabilities"], softmax, atol=1e-6)


def test_leg_records_the_final_name_and_the_hash_of_what_was_compared(copied, leg_of):
    path = copied.path("network")
    leg = leg_of("network", path, "later.onnx")
    assert (leg.file, leg.sha256) == ("later.onnx", sha256(path))
    assert replace(leg, file=path.name) == leg_of("network", path)


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_pytorchs_own_formats_are_compared_likewise(small, torch_formats, leg_of, kind):
    path = torch_formats[0].path(kind)
    leg = leg_of(kind, path, logits=small.arrays["logits"] + np.float32(0.001))
    assert not leg.passed
    assert any(line.startswith("logits in batches of 1") for line in leg.failures)

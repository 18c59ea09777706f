"""The equivalence check: what is equal passes, and every planted fault is named."""

import copy
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export.compare import equivalence
from export.compare.equivalence import BATCHES, compare_onnx, references
from export.compare.samples import NATURAL, samples
from export.convert.onnx import export_pipeline, network_specs, pipeline_specs
from export.convert.pipeline import Pipeline
from toolkit.errors import ModelRefusedError
from toolkit.model.tolerance import BOUNDS
from toolkit.networks.preprocessing import Preprocessing

SPECS = {"network": network_specs(4), "pipeline": pipeline_specs(4, scoped=True)}
KINDS = tuple(SPECS)


def _compare(small, files, kind, reference=None):
    return compare_onnx(files.path(kind), *SPECS[kind], reference or small.reference, small.inputs)


def _rewrite(path, function):
    model = onnx.load(path)
    function(model.graph)
    onnx.save(model, path)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_graphs_pass_in_batches_of_1_2_7_and_64(small, kind, monkeypatch):
    sizes = set()
    opened = equivalence.open_session

    def spy(*arguments, **options):
        session = opened(*arguments, **options)

        class Spy:
            def __getattr__(self, name):
                return getattr(session, name)

            def run(self, names, feed):
                sizes.add(len(next(iter(feed.values()))))
                return session.run(names, feed)

        return Spy()

    monkeypatch.setattr(equivalence, "open_session", spy)
    inputs = samples()
    assert len(inputs.kinds) >= 64
    reference = references(small.pipeline, inputs)
    leg = compare_onnx(small.files.path(kind), *SPECS[kind], reference, inputs)
    assert leg.passed and not leg.failures, leg
    assert leg.batches == BATCHES == (1, 2, 7, 64)
    assert set(BATCHES) <= sizes
    assert [each.output for each in leg.outputs] == [each.name for each in SPECS[kind][1]]
    assert all(0 <= each.mean_abs <= each.max_abs < 1e-3 for each in leg.outputs)
    assert leg.argmax_agreement == 1.0 and leg.samples == len(inputs.kinds)
    assert leg.provider == "CPUExecutionProvider"


def _renamed(graph):
    graph.output[0].name = "scores"
    for node in graph.node:
        for names in (node.output, node.input):
            for index, name in enumerate(names):
                if name == "logits":
                    names[index] = "scores"


def _wrong_dtype(graph):
    logits = graph.output[0]
    (giver,) = [node for node in graph.node if "logits" in node.output]
    giver.output[0] = "single"
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == "logits":
                node.input[index] = "single"
    graph.node.append(helper.make_node("Cast", ["single"], ["logits"], to=TensorProto.DOUBLE))
    logits.type.tensor_type.elem_type = TensorProto.DOUBLE


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
def test_names_dtypes_and_shapes_come_before_values(small, copied, kind, fault, said):
    _rewrite(copied.path(kind), fault)
    leg = _compare(small, copied, kind)
    assert not leg.passed
    assert any(said in line for line in leg.failures), leg.failures
    assert leg.outputs == () and leg.argmax_agreement == 0.0


def test_swapped_inputs_are_found(small, copied):
    def swap(graph):
        image, edges = copy.deepcopy(list(graph.input))
        del graph.input[:]
        graph.input.extend([edges, image])

    _rewrite(copied.path("network"), swap)
    leg = _compare(small, copied, "network")
    assert not leg.passed and leg.failures[0].startswith("inputs are edges float32")


def test_swapped_outputs_are_found(small, copied):
    """Logits under the name of probabilities, and the other way round."""

    def swap(graph):
        names = {"logits": "probabilities", "probabilities": "logits"}
        for node in graph.node:
            for each in (node.input, node.output):
                for index, name in enumerate(each):
                    each[index] = names.get(name, name)

    _rewrite(copied.path("pipeline"), swap)
    leg = _compare(small, copied, "pipeline")
    assert not leg.passed
    assert {each.output for each in leg.outputs if not each.passed} >= {"logits", "probabilities"}


def test_file_that_onnxruntime_cannot_open_is_refused(small, copied):
    copied.path("network").write_bytes(copied.path("network").read_bytes()[:5000])
    with pytest.raises(ModelRefusedError, match="cannot open"):
        _compare(small, copied, "network")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_never_pass(small, copied, changed, kind, value):
    def plant(array):
        array[0] = value
        return array

    changed(copied.path(kind), "outputCombiner.8.bias", plant)
    leg = _compare(small, copied, kind)
    assert not leg.passed
    logits = leg.outputs[0]
    assert not logits.passed and logits.max_abs == -1.0
    assert re.search(r"logits in batches of 1: .* by (nan|inf)", leg.failures[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_never_pass_where_torch_gives_them_too(
    small, copied, changed, kind, value
):
    def plant(array):
        array[0] = value
        return array

    changed(copied.path(kind), "outputCombiner.8.bias", plant)
    weights = {name: each.clone() for name, each in small.pipeline.network.state_dict().items()}
    network = type(small.pipeline.network)(4, 0.5, 4)
    weights["outputCombiner.8.bias"][0] = value
    network.load_state_dict(weights)
    scoped = Pipeline(small.pipeline.preprocessing, network, scope=small.pipeline.scope)
    reference = references(scoped, small.inputs)
    assert not np.isfinite(reference["logits"]).all()
    leg = _compare(small, copied, kind, reference)
    assert not leg.passed and not leg.outputs[0].passed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["imagesClassifier.0.weight", "edgesClassifier.4.weight"])
def test_one_perturbed_weight_is_found_by_name(small, copied, changed, kind, weight):
    def perturb(array):
        array.flat[np.abs(array).argmax()] *= 1.01
        return array

    changed(copied.path(kind), weight, perturb)
    leg = _compare(small, copied, kind)
    assert not leg.passed and leg.file == copied.path(kind).name
    found = re.fullmatch(
        r"logits in batches of 1: (\d+) of 10 X-rays differ, most of all number (\d+) "
        r"\(([a-z ]+)\) by ([0-9.e-]+); allowed 1e-5 \* max\(1, max \|logit\| of that X-ray\)",
        leg.failures[0],
    )
    assert found, leg.failures
    number, kind_of_sample, amount = int(found[2]), found[3], float(found[4])
    assert small.inputs.kinds[number] == kind_of_sample
    assert amount > 1e-5
    assert amount == pytest.approx(leg.outputs[0].max_abs, rel=0.01)
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
    ],
)
def test_wrong_constant_is_found(small, copied, changed, constant, factor, output):
    changed(
        copied.path("pipeline"), constant, lambda array: np.asarray(array * factor, array.dtype)
    )
    leg = _compare(small, copied, "pipeline")
    assert not leg.passed
    assert output in {each.output for each in leg.outputs if not each.passed}
    assert any(line.startswith(f"{output} in batches of") for line in leg.failures)


@pytest.mark.parametrize("constant", ["image_mean", "image_std"])
def test_wrong_normalisation_of_the_image_is_found(small, tmp_path, constant):
    """Exported anew: the graph may hold what these constants come to, and not themselves."""
    right = small.record.preprocessing
    wrong = replace(right, **{constant: tuple(each * 1.001 for each in getattr(right, constant))})
    path = tmp_path / "wrong.onnx"
    pipeline = Pipeline(Preprocessing(wrong), small.pipeline.network, scope=small.pipeline.scope)
    export_pipeline(pipeline, small.record, path)
    leg = compare_onnx(path, *SPECS["pipeline"], small.reference, small.inputs)
    assert not leg.passed
    assert not leg.outputs[0].passed and leg.outputs[0].output == "logits"
    assert leg.outputs[2].passed


def test_wrong_edge_threshold_is_found_in_the_edge_map(small, copied):
    def raise_threshold(graph):
        (greater,) = [node for node in graph.node if node.op_type == "Greater"]
        graph.initializer.append(helper.make_tensor("eleven", TensorProto.FLOAT, [], [11.0]))
        greater.input[1] = "eleven"

    _rewrite(copied.path("pipeline"), raise_threshold)
    leg = _compare(small, copied, "pipeline")
    assert not leg.passed
    edge_map = leg.outputs[2]
    assert edge_map.output == "edge_map" and not edge_map.passed and edge_map.max_abs >= 1
    assert any("edge_map" in line and "allowed identical" in line for line in leg.failures)


def test_fault_that_only_shows_in_larger_batches_is_found(small, copied):
    """A graph that mixes the X-rays of a batch is right for batches of 1."""

    def mix(graph):
        (giver,) = [node for node in graph.node if "logits" in node.output]
        giver.output[0] = "alone"
        axes = helper.make_tensor("first", TensorProto.INT64, [1], [0])
        graph.initializer.append(axes)
        graph.node.append(helper.make_node("ReduceMax", ["alone", "first"], ["largest"]))
        graph.node.append(helper.make_node("Max", ["alone", "largest"], ["logits"]))

    _rewrite(copied.path("network"), mix)
    leg = _compare(small, copied, "network")
    assert not leg.passed
    found = [re.search(r"batches of (\d+)", line) for line in leg.failures]
    sizes = {each[1] for each in found if each}
    assert sizes == {"2", "7", "64"}


def test_tolerance_scales_with_the_logits_of_each_xray():
    reference = np.array([[0.5, -0.1], [3.0, -2000.0], [1.0, 1.0]], dtype=np.float32)
    natural = np.array([True, True, False])
    assert BOUNDS["logits"].allowed(reference, natural) == pytest.approx([1e-5, 2e-2, 1e-5])
    assert BOUNDS["edge_map"].allowed(reference, natural) == pytest.approx([0, 0, 0])
    novelty = BOUNDS["novelty"].allowed(np.float32([0.5, 1, 300]), natural)
    assert novelty == pytest.approx([1e-4, 1e-4, 3e-2])
    bounds = BOUNDS["probabilities"].allowed(reference, natural)
    assert bounds == pytest.approx([1e-5, 1e-5, 1e-2])
    assert {"real", "generated"} <= set(NATURAL)


def test_model_of_large_logits_passes_within_the_scaled_tolerance(small, copied, changed):
    """Times 2**14 scales logits and differences exactly: what was within the bound stays so."""
    factor = 2.0**14
    for name in ("outputCombiner.8.weight", "outputCombiner.8.bias"):
        changed(copied.path("network"), name, lambda array: array * np.float32(factor))
    reference = small.reference | {"logits": small.reference["logits"] * np.float32(factor)}
    assert np.abs(reference["logits"]).max() > 1000
    leg = _compare(small, copied, "network", reference)
    assert leg.passed, leg.failures
    assert leg.outputs[0].max_abs > 1e-5
    # And the same amount fails on logits of ordinary size.
    leg = _compare(small, copied, "network")
    assert not leg.passed


def test_probabilities_are_not_bounded_on_extreme_inputs_but_must_be_finite(small):
    """Of a difference on noise alone, only the logits and the edge map are held against it."""
    extreme = ~small.inputs.natural
    assert extreme.any() and small.inputs.natural.any()
    reference = dict(small.reference)
    reference["probabilities"] = small.reference["probabilities"].copy()
    reference["probabilities"][extreme] += np.float32(1e-3)
    assert _compare(small, small.files, "pipeline", reference).passed
    reference["probabilities"][np.flatnonzero(extreme)[0]] = np.nan
    assert not _compare(small, small.files, "pipeline", reference).passed
    reference["probabilities"] = small.reference["probabilities"].copy()
    reference["probabilities"][np.flatnonzero(small.inputs.natural)[0]] += np.float32(1e-4)
    assert not _compare(small, small.files, "pipeline", reference).passed


def test_references_are_those_of_the_served_module_in_evaluation_mode(small):
    xray = torch.from_numpy(small.inputs.pixels)
    with torch.no_grad():
        image, edges = small.pipeline.preprocessing(xray)
        logits = small.pipeline.network.eval()(image, edges)
    np.testing.assert_allclose(small.reference["logits"], logits.numpy(), rtol=1e-6, atol=1e-6)
    softmax = torch.softmax(logits / small.record.temperature, dim=1).numpy()
    np.testing.assert_allclose(small.reference["probabilities"], softmax, atol=1e-6)


def test_leg_records_the_final_name_and_the_hash_of_what_was_compared(small, copied):
    from toolkit.files import sha256

    path = copied.path("network")
    leg = compare_onnx(path, *SPECS["network"], small.reference, small.inputs, "later.onnx")
    assert (leg.file, leg.sha256) == ("later.onnx", sha256(path))
    assert replace(leg, file=path.name) == _compare(small, copied, "network")

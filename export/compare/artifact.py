"""Every kind of artifact, opened and compared with PyTorch eager in the same way."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.compare.gate import NO_XRAYS, GateSamples, gate, gate_samples, with_scope
from export.compare.layers import first_difference
from export.compare.measurement import Origin, Runner, Setting, compare, concatenate, settings
from export.compare.samples import Samples, samples
from export.convert.onnx import Specs
from export.convert.pipeline import Pipeline, probabilities_of
from export.convert.torch_formats import OPENERS
from toolkit.errors import ModelRefusedError
from toolkit.files import sha256, write_bytes
from toolkit.model.artifacts import Arrays
from toolkit.model.equivalence import GoldenRecord, Leg, TensorSpec
from toolkit.model.files import LOWER
from toolkit.model.manifest import Manifest
from toolkit.model.tolerance import PROBABILITY_TOLERANCE, bound_of
from toolkit.runtime.providers import open_session
from toolkit.xray.annotations.sources import NOTHING, Annotations

_BATCH = 64
_GOLDEN = 4
_JUDGED = ("logits", "novelty")


@dataclass(frozen=True)
class Reference:
    """What every artifact of a model is compared with.

    Attributes:
        pipeline: PyTorch's, as it was trained.
        samples: the X-rays that go through.
        arrays: what the pipeline makes of them, as `reference_arrays` gives it.
        label_names: of the classes.
        novelty_limit: up to which an X-ray is in scope; None where that is not known.
        gate_samples: what a file of lower precision is judged by; None where there are none.
    """

    pipeline: Pipeline
    samples: Samples
    arrays: Arrays
    label_names: tuple[str, ...]
    novelty_limit: float | None = None
    gate_samples: GateSamples | None = None

    @cached_property
    def gate_arrays(self) -> Arrays:
        """What PyTorch makes of the X-rays to judge by: logits and, with a scope, novelty."""
        assert self.gate_samples
        batches = torch.split(torch.from_numpy(self.gate_samples.pixels), _BATCH)
        names = self.pipeline.outputs

        def step(xray: Tensor) -> dict[str, NDArray[Any]]:
            outputs = dict(zip(names, self.pipeline(xray), strict=True))
            return {name: outputs[name].numpy() for name in _JUDGED if name in outputs}

        with torch.no_grad():
            return concatenate(map(step, batches))


def reference_of(
    pipeline: Pipeline,
    record: Manifest,
    data: Path | None,
    kinds: Iterable[str],
    said: Annotations = NOTHING,
) -> Reference:
    """Return what artifacts of some kinds are compared with, on the X-rays of `data` too.

    Raises:
        DataError: the folder, or the table of its patients, cannot be used.
    """
    labels = said.labels_for(record.labels, data) if data else None
    inputs = samples(data, labels, said.table, record.network.xray_shape)
    lower = not set(LOWER).isdisjoint(kinds)
    gated = gate_samples(data, record, said) if data and lower else None
    arrays = reference_arrays(pipeline, inputs)
    limit = record.scope.limit if record.scope else None
    return Reference(pipeline, inputs, arrays, record.labels.classes, limit, gated)


@torch.no_grad()
def reference_arrays(pipeline: Pipeline, samples: Samples) -> dict[str, NDArray[Any]]:
    """Run PyTorch eager over all samples, in batches of 64, on the CPU.

    Returns:
        `xray`, the network's inputs, and the pipeline's outputs, by name.
    """

    def step(xray: Tensor) -> dict[str, NDArray[Any]]:
        names = [spec.name for spec in pipeline.definition.inputs]
        inputs = dict(zip(names, pipeline.inputs(xray), strict=True))
        outputs = dict(zip(pipeline.outputs, pipeline(xray), strict=True))
        tensors = {"xray": xray} | inputs | outputs
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    return concatenate(map(step, torch.split(torch.from_numpy(samples.pixels), _BATCH)))


def compare_file(
    kind: str, path: Path, specs: Specs, reference: Reference, file_name: str | None = None
) -> Leg:
    """Compare one artifact with PyTorch's outputs, in every setting.

    Names, dtypes and shapes come before values; a graph that differs there is not run. A file of
    lower precision is judged by the gate; of others that differ, the first layer is named.

    Args:
        kind: a kind of artifact.
        path: the file.
        specs: its inputs and outputs.
        reference: what to compare with.
        file_name: the name to record, where the file does not have its final one yet.

    Raises:
        ModelRefusedError: the file cannot be opened, or ONNX Runtime crashes over it.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if kind in LOWER:
        _require_survival(path, kind)
    failures: tuple[str, ...] = ()
    if kind in OPENERS:
        tried, provider = settings(_torch_runner(OPENERS[kind](path), specs)), "PyTorch on the CPU"
    else:
        tried, failures, provider = _onnx_settings(path, specs)
    origin = Origin(file_name or path.name, sha256(path), provider)
    bounds = {spec.name: bound_of(spec.name, kind in LOWER) for spec in specs[1]}
    leg = compare(tried, specs, reference.arrays, reference.samples, origin, failures, bounds)
    if kind in LOWER:
        return _through_gate(leg, path, reference)
    if leg.passed or not leg.outputs:
        return leg
    layer = first_difference(kind, path, reference.pipeline, reference.samples.pixels)
    return replace(leg, failures=(*leg.failures, layer))


def save_golden(path: Path, reference: Reference) -> GoldenRecord:
    """Write a .golden.npz, for a service to prove itself by as it starts.

    It holds a few generated X-rays as `xray`, and the outputs that the pipeline has.

    Raises:
        UsageError: the folder cannot be written.
    """
    arrays = reference.arrays
    generated = np.flatnonzero([kind == "generated" for kind in reference.samples.kinds])
    places = generated[_clearest(arrays["logits"][generated])]
    chosen = {name: arrays[name][places] for name in ("xray", *reference.pipeline.outputs)}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **chosen)
    write_bytes(path, stream.getvalue())
    return GoldenRecord(sha256(path), len(places))


def _clearest(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the places of the clearest decisions, of as many classes as there are.

    A lower precision may move a close decision; of these it must not.
    """
    ordered = np.sort(logits.astype(np.float64), axis=1)
    by_margin = np.argsort(-(ordered[:, -1] - ordered[:, -2]), kind="stable")
    classes = logits.argmax(axis=1)[by_margin]
    firsts = np.unique(classes, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(by_margin)), firsts)
    result: NDArray[np.intp] = by_margin[np.concatenate([firsts, rest])[:_GOLDEN]]
    return result


def _through_gate(leg: Leg, path: Path, reference: Reference) -> Leg:
    """Return the leg of a file of lower precision with what the gate says of it."""
    judged = reference.gate_samples
    if judged is None:
        return replace(leg, failures=(*leg.failures, NO_XRAYS), passed=False)
    session = open_session(path, "cpu")
    given = {value.name for value in session.get_outputs()}
    names = [name for name in (*_JUDGED, "probabilities") if name in given]
    run = _onnx_runner(session, names)
    starts = range(0, len(judged.pixels), _BATCH)
    found = concatenate(run({"xray": judged.pixels[start : start + _BATCH]}) for start in starts)
    logits, expected = found["logits"], reference.gate_arrays
    classes, ordinal = reference.label_names, judged.ordinal
    result = gate(expected["logits"], logits, judged.labels, classes, ordinal)
    if "novelty" in found and reference.novelty_limit is not None:
        novelties = expected["novelty"], found["novelty"]
        result = with_scope(result, *novelties, reference.novelty_limit)
    softmax = probabilities_of(torch.from_numpy(logits), reference.pipeline.temperature).numpy()
    failures = (*leg.failures, *result.failures)
    # The gate judges logits, and the probabilities are what is served.
    apart = float(np.abs(found["probabilities"] - softmax).max())
    if not apart <= PROBABILITY_TOLERANCE:
        failures += (f"probabilities differ by {apart:.3g} from softmax(logits / T)",)
    return replace(leg, failures=failures, passed=leg.passed and not failures, gate=result)


def _require_survival(path: Path, kind: str) -> None:
    """Refuse a graph that ends the process that opens it: another one opens it first."""
    code = (
        "import sys, pathlib; from toolkit.runtime.providers import open_session; "
        "open_session(pathlib.Path(sys.argv[1]), 'cpu')"
    )
    command = [sys.executable, "-P", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode < 0:
        raise ModelRefusedError(
            f"ONNX Runtime ends with {signal.Signals(-done.returncode).name} as it opens this "
            f"network in {kind}: export it in another precision"
        )


def _onnx_settings(path: Path, specs: Specs) -> tuple[dict[str, Setting], tuple[str, ...], str]:
    """Return how to run a graph, what is wrong with its inputs and outputs, and its provider."""
    session, plain = open_session(path, "cpu"), open_session(path, "cpu", optimised=False)
    names = [spec.name for spec in specs[1]]
    tried = settings(_onnx_runner(session, names))
    tried["in batches of 7 without graph optimisations"] = Setting(_onnx_runner(plain, names), 7)
    return tried, tuple(_spec_failures(session, specs)), session.get_providers()[0]


def _onnx_runner(session: Any, names: list[str]) -> Runner:
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


def _torch_runner(module: Any, specs: Specs) -> Runner:
    names = [spec.name for spec in specs[1]]

    def run(feed: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(feed["xray"]))
        return {name: tensor.numpy() for name, tensor in zip(names, outputs, strict=True)}

    return run


def _spec_failures(session: Any, specs: Specs) -> list[str]:
    failures = []
    for what, expected, values in zip(
        ("inputs", "outputs"), specs, (session.get_inputs(), session.get_outputs()), strict=True
    ):
        found = tuple(_spec(value) for value in values)
        if found != expected:
            failures.append(f"{what} are {_as_text(found)}, expected {_as_text(expected)}")
    return failures


def _spec(value: Any) -> TensorSpec:
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(value.type, value.type)
    return TensorSpec(value.name, dtype, tuple(value.shape))


def _as_text(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)

"""Every kind of artifact, opened and compared with PyTorch eager in the same way."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.compare.equivalence import (
    Arrays,
    Origin,
    Runner,
    compare,
    compare_onnx,
    references,
    settings,
)
from export.compare.gate import NO_XRAYS, gate
from export.compare.graded import Graded, graded
from export.compare.layers import first_difference
from export.compare.samples import Samples, samples
from export.convert.onnx import explainer_specs, network_specs, pipeline_specs
from export.convert.pipeline import Pipeline, probabilities_of
from export.convert.torch_formats import open_pt2, open_torchscript
from toolkit.files import sha256
from toolkit.model.equivalence import Leg, TensorSpec
from toolkit.model.files import LOWER
from toolkit.model.manifest import Manifest
from toolkit.model.tolerance import GATED, PROBABILITY_TOLERANCE
from toolkit.runtime.session import open_session

Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]

_TORCH_FORMATS: dict[str, Callable[[Path], Any]] = {
    "torchscript": open_torchscript,
    "pt2": open_pt2,
}


@dataclass(frozen=True)
class Reference:
    """What every artifact of a model is compared with.

    Attributes:
        pipeline: PyTorch's, as it was trained.
        samples: the X-rays that go through.
        arrays: what the pipeline makes of them, as `export.compare.equivalence.references`
            gives it.
        graded: what a file of lower precision is judged by; None where there are none.
        label_names: of the classes.
    """

    pipeline: Pipeline
    samples: Samples
    arrays: Arrays
    graded: Graded | None
    label_names: tuple[str, ...]

    @cached_property
    def graded_logits(self) -> NDArray[Any]:
        """PyTorch's logits of the graded X-rays, float32 (N, C)."""
        assert self.graded
        batches = torch.split(torch.from_numpy(self.graded.pixels), 64)
        with torch.no_grad():
            return torch.cat([self.pipeline(xray)[0] for xray in batches]).numpy()


def reference_of(
    pipeline: Pipeline, record: Manifest, data: Path | None, kinds: Iterable[str]
) -> Reference:
    """Return what artifacts of some kinds are compared with, on the X-rays of `data` too.

    Raises:
        DataError: the folder cannot be used.
    """
    inputs = samples(data)
    judged = graded(data, record) if data and not set(LOWER).isdisjoint(kinds) else None
    return Reference(pipeline, inputs, references(pipeline, inputs), judged, record.labels.classes)


def specs_of(kind: str, pipeline: Pipeline) -> Specs:
    """Return the inputs and outputs of the artifact of some kind that is made of a pipeline."""
    classes = pipeline.network.classes
    own = {"network": network_specs, "explainer": explainer_specs}
    if kind in own:
        return own[kind](classes)
    return pipeline_specs(classes, pipeline.scope is not None and kind not in LOWER)


def compare_file(
    kind: str, path: Path, specs: Specs, reference: Reference, file_name: str | None = None
) -> Leg:
    """Compare one artifact with PyTorch's outputs.

    Args:
        kind: a kind of artifact.
        path: the file.
        specs: its inputs and outputs.
        reference: what to compare with.
        file_name: the name to record, where the file does not have its final one yet.

    Raises:
        ModelRefusedError: the file cannot be opened.
    """
    arrays, inputs = reference.arrays, reference.samples
    if kind in LOWER:
        leg = compare_onnx(path, *specs, arrays, inputs, file_name, GATED)
        return _judged(leg, path, reference)
    if kind in _TORCH_FORMATS:
        module = _TORCH_FORMATS[kind](path)
        origin = Origin(file_name or path.name, sha256(path), "PyTorch on the CPU")
        leg = compare(settings(_runner(module, specs)), specs, arrays, inputs, origin, [])
    else:
        leg = compare_onnx(path, *specs, arrays, inputs, file_name)
    if leg.passed or not leg.outputs:
        return leg
    layer = first_difference(kind, path, reference.pipeline, inputs.pixels)
    return replace(leg, failures=(*leg.failures, layer))


def _judged(leg: Leg, path: Path, reference: Reference) -> Leg:
    """Return the leg of a file of lower precision with the gate's verdict."""
    if reference.graded is None:
        return replace(leg, failures=(*leg.failures, NO_XRAYS), passed=False)
    session = open_session(path, "cpu")
    batches = torch.split(torch.from_numpy(reference.graded.pixels), 64)
    ran = [session.run(["logits", "probabilities"], {"xray": each.numpy()}) for each in batches]
    logits, probabilities = (np.concatenate(each) for each in zip(*ran, strict=True))
    result = gate(reference.graded_logits, logits, reference.graded.labels, reference.label_names)
    softmax = probabilities_of(torch.from_numpy(logits), reference.pipeline.temperature).numpy()
    failures = (*leg.failures, *result.failures)
    # The gate judges logits, and the probabilities are what is served.
    apart = float(np.abs(probabilities - softmax).max())
    if not apart <= PROBABILITY_TOLERANCE:
        failures += (f"probabilities differ by {apart:.3g} from softmax(logits / T)",)
    return replace(leg, failures=failures, passed=leg.passed and not failures, gate=result)


def _runner(module: Any, specs: Specs) -> Runner:
    names = [each.name for each in specs[1]]

    def run(feed: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(feed["xray"]))
        return {name: each.numpy() for name, each in zip(names, outputs, strict=True)}

    return run

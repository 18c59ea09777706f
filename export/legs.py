"""Every kind of artifact, opened and compared with PyTorch eager in the same way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from export.equivalence import Arrays, Origin, Runner, compare, compare_onnx, settings
from export.onnx_graph import network_specs, pipeline_specs
from export.samples import Samples
from export.torch_formats import open_pt2, open_torchscript
from toolkit.files import sha256
from toolkit.manifest import Leg, TensorSpec

Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]

_TORCH_FORMATS: dict[str, Callable[[Path], Any]] = {
    "torchscript": open_torchscript,
    "pt2": open_pt2,
}


def specs_of(kind: str, classes: int) -> Specs:
    """Return the inputs and outputs that a kind of artifact has."""
    return network_specs(classes) if kind == "network" else pipeline_specs(classes)


def compare_file(
    kind: str,
    path: Path,
    reference: Arrays,
    samples: Samples,
    specs: Specs,
    file_name: str | None = None,
) -> Leg:
    """Compare one artifact with PyTorch's outputs.

    Args:
        kind: `network`, `pipeline`, `torchscript` or `pt2`.
        path: the file.
        reference: as `export.equivalence.references` gives it.
        samples: what it was made from.
        specs: inputs and outputs that the artifact must have.
        file_name: the name to record, where the file does not have its final one yet.

    Raises:
        ModelRefusedError: the file cannot be opened.
    """
    if kind not in _TORCH_FORMATS:
        return compare_onnx(path, *specs, reference, samples, file_name)
    module = _TORCH_FORMATS[kind](path)
    origin = Origin(file_name or path.name, sha256(path), "PyTorch on the CPU")
    return compare(settings(_runner(module, specs)), specs, reference, samples, origin, [])


def _runner(module: Any, specs: Specs) -> Runner:
    names = [each.name for each in specs[1]]

    def run(feed: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(feed["xray"]))
        return {name: each.numpy() for name, each in zip(names, outputs, strict=True)}

    return run

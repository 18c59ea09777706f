"""The first layer whose output differs from PyTorch's: where a failed leg went wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from export.convert.onnx import layer_of
from export.convert.pipeline import OUTPUTS, Pipeline
from export.convert.torch_formats import open_pt2, open_torchscript
from toolkit.networks.recording import recording
from toolkit.runtime.providers import open_session

_TOLERANCE = 1e-5
_XRAYS = 8

Layers = dict[str, NDArray[Any]]
"""What layers take or give, by name, in the order in which they run."""


def first_difference(kind: str, path: Path, pipeline: Pipeline, xrays: NDArray[np.uint8]) -> str:
    """Return a line that names the first layer whose output differs, or says that none does.

    A layer differs where it is off by more than 1e-5 times its largest value, or not finite.

    Args:
        kind: of artifact.
        path: its file.
        pipeline: PyTorch's.
        xrays: uint8 (N, 224, 224) on which the two differ; the first eight are taken.
    """
    xrays = xrays[:_XRAYS]
    taken, expected = _recorded(pipeline, torch.from_numpy(xrays))
    if kind == "torchscript":
        values = _of_torchscript(path, taken)
    elif kind == "pt2":
        values = _of_pt2(path, xrays)
    else:
        values = _of_onnx(path, expected)
    for layer, value in values:
        reference = expected.get(layer)
        if reference is None or reference.shape != value.shape:
            continue
        error = float(np.abs(value.astype(np.float64) - reference).max())
        # A NaN compares as False, so what passes is asked for, not what fails.
        if not error <= _TOLERANCE * float(np.abs(reference).max()):
            return f"the first layer that differs is {layer}, by {error:.3g}"
    return "no single layer differs: the differences add up"


@torch.no_grad()
def _recorded(pipeline: Pipeline, xray: Tensor) -> tuple[Layers, Layers]:
    """Return what PyTorch's layers take, and what they give, in the order in which they run."""
    constants = pipeline.preprocessing
    edge_map = constants.edge_map(xray)
    given: Layers = {
        "xray": xray.numpy(),
        "edge_map": edge_map.numpy(),
        "image": constants.image(xray).numpy(),
        "grey": constants.resized(xray).numpy(),
        "edges": constants.edges(edge_map).numpy(),
    }

    leaves = {
        name: layer for name, layer in pipeline.network.named_modules() if not [*layer.children()]
    }
    with recording(leaves) as runs:
        outputs = pipeline(xray)
    given |= {run.name: run.given.numpy() for run in runs}
    given |= {name: output.numpy() for name, output in zip(OUTPUTS, outputs, strict=False)}
    return {run.name: run.taken.numpy() for run in runs}, given


def _of_onnx(path: Path, expected: Layers) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield what the layers of a graph give, all of them taken out at once."""
    model = onnx.load(path)
    layers = dict(_layers(model))
    outputs = {value.name for value in model.graph.output}
    del model.graph.value_info[:]
    for value in layers:
        if value not in outputs:
            model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    session = open_session(model.SerializeToString(), "cpu")
    feed = {value.name: expected[value.name] for value in session.get_inputs()}
    for layer, array in zip(layers.values(), session.run(list(layers), feed), strict=True):
        # The folded image branch is given one grey channel, not three normalised ones.
        yield ("grey" if layer == "image" and array.shape[1] == 1 else layer), array


def _layers(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Yield the values of a graph that are a layer's output or a branch's input, with its name.

    The names are the modules', which PyTorch's exporter keeps with every node.
    """
    last: dict[str, str] = {}
    for node in model.graph.node:
        if layer := layer_of(node):
            last[layer] = node.output[0]
    ends = {value: layer for layer, value in last.items()}
    inputs = {value.name for value in model.graph.input}
    for node in model.graph.node:
        branch = {"imagesClassifier.0": "image", "edgesClassifier.0": "edges"}.get(layer_of(node))
        if branch and node.op_type == "Conv" and node.input[0] not in inputs:
            yield node.input[0], branch
        for value in node.output:
            if value in OUTPUTS:
                yield value, value
            elif value in ends:
                yield value, ends[value]


@torch.no_grad()
def _of_torchscript(path: Path, taken: Layers) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield what each layer of a trace gives for what PyTorch's own takes."""
    layers = dict(open_torchscript(path).named_modules())
    for name, value in taken.items():
        # A branch that was left out as dead has no layers.
        if layer := layers.get(f"network.{name}"):
            yield name, layer(torch.from_numpy(value)).numpy()


@torch.no_grad()
def _of_pt2(path: Path, xrays: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield what each layer of an exported program gives."""
    given: Layers = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            value = super().run_node(node)
            scopes = list((node.meta.get("nn_module_stack") or {}).values())
            if scopes and isinstance(value, Tensor):
                given[scopes[-1][0].removeprefix("network.")] = value.numpy()
            return value

    Recorder(open_pt2(path)).run(torch.from_numpy(xrays))
    yield from given.items()

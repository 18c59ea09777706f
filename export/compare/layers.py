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

from export.convert.onnx import PREPROCESSING, layer_of, scopes_of
from export.convert.pipeline import Pipeline
from export.convert.torch_formats import open_pt2, open_torchscript
from toolkit.networks.recording import recording
from toolkit.runtime.providers import open_session

_TOLERANCE = 1e-5
_XRAYS = 8

_FAST = "fast "

Layers = dict[str, NDArray[Any]]
"""What layers take or give, by name, in the order in which they run."""


def first_difference(kind: str, path: Path, pipeline: Pipeline, xrays: NDArray[np.uint8]) -> str:
    """Return a line that names the first layer whose output differs, or says that none does.

    A layer differs where it is off by more than 1e-5 times its largest value, or not finite.

    Args:
        kind: of artifact.
        path: its file.
        pipeline: PyTorch's.
        xrays: uint8 (N, size, size) on which the two differ; the first eight are taken.
    """
    xrays = xrays[:_XRAYS]
    taken, expected = _recorded(pipeline, torch.from_numpy(xrays))
    if kind == "torchscript":
        values = _of_torchscript(path, taken)
    elif kind == "pt2":
        values = _of_pt2(path, xrays)
    else:
        values = _of_onnx(path, expected, [spec.name for spec in pipeline.definition.inputs])
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
    names = [spec.name for spec in pipeline.definition.inputs]
    with recording(pipeline.layers(), Tensor.clone) as runs:
        outputs = dict(zip(pipeline.outputs, pipeline(xray), strict=True))
    values = {"xray": xray} | dict(zip(names, pipeline.inputs(xray), strict=True))
    values |= {run.name: run.given for run in runs} | outputs
    # What is exported may have another preprocessing.
    for name, value in zip(names, pipeline.fast().inputs(xray), strict=True):
        values[f"{_FAST}{name}"] = value
    taken = {run.name: run.taken.numpy() for run in runs}
    return taken, {name: value.numpy() for name, value in values.items()}


def _of_onnx(path: Path, expected: Layers, inputs: list[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield what the layers of a graph give, all of them taken out at once."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    known = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    layers = {
        value: layer
        for value, layer in _layers(model, expected)
        if known.get(value, TensorProto.FLOAT) == TensorProto.FLOAT
    }
    outputs = {value.name for value in model.graph.output}
    del model.graph.value_info[:]
    for value in layers:
        if value not in outputs:
            model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    session = open_session(model.SerializeToString(), "cpu")
    feed = {value.name: expected[value.name] for value in session.get_inputs()}
    for layer, array in zip(layers.values(), session.run(list(layers), feed), strict=True):
        yield layer or _closest(array, expected, inputs), array


def _closest(array: NDArray[Any], expected: Layers, inputs: list[str]) -> str:
    """Return which of the network's inputs a value is, by its shape and then by its numbers."""
    names = [name for each in inputs for name in (each, f"{_FAST}{each}")]
    errors = {
        name: float(np.nan_to_num(np.abs(array - expected[name]), nan=np.inf).max())
        for name in names
        if expected[name].shape == array.shape
    }
    return min(errors, key=lambda name: errors[name], default="")


def _layers(model: onnx.ModelProto, expected: Layers) -> Iterator[tuple[str, str]]:
    """Yield the values of a graph that are a layer's output, with its name, or go into the network.

    The names are the modules', which PyTorch's exporter keeps with every node; what the
    preprocessing hands on has none.
    """
    last = {layer: node.output[0] for node in model.graph.node if (layer := layer_of(node))}
    ends = {value: layer for layer, value in last.items() if layer in expected}
    outputs = {value.name for value in model.graph.output}
    made = {
        value
        for node in model.graph.node
        if PREPROCESSING in scopes_of(node)
        for value in node.output
    }
    for node in model.graph.node:
        if PREPROCESSING not in scopes_of(node):
            yield from ((value, "") for value in node.input if value in made - outputs)
        for value in node.output:
            if value in outputs:
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

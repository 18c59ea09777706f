"""What 8-bit integers are off by on the mean, taken out of the graph again.

After Nagel et al., "Data-free quantization through weight equalization and bias correction"
(2019); here the means are those of the activations, on calibration X-rays.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from toolkit.runtime.providers import open_session

_BATCH = 16
_CENTRE = "scope.centre"


def correct(
    quantised: ModelProto, model: ModelProto, names: Iterable[str], xrays: NDArray[np.uint8]
) -> None:
    """Shift biases, and the centre of the scope, by what the means of 8 bits are off.

    Args:
        quantised: the graph to correct, with pairs of QuantizeLinear and DequantizeLinear.
        model: the same in single precision.
        names: of nodes in 8 bits.
        xrays: to take the means over, uint8 (N, size, size).
    """
    nodes, full = _by_name(quantised), _by_name(model)
    convolutions = [nodes[name] for name in names if _has_bias(nodes.get(name))]
    expected = _means(model, [full[node.name].output[0] for node in convolutions], xrays)
    # One after another: what an earlier one is off by is in the mean of a later one.
    for node, mean in zip(convolutions, expected, strict=True):
        (found,) = _means(quantised, [node.output[0]], xrays)
        _shift_bias(quantised, node, mean - found)
    for node in quantised.graph.node:
        if _CENTRE in node.input:
            (summary,) = (value for value in node.input if value != _CENTRE)
            (mean,), (found,) = (_means(each, [summary], xrays) for each in (model, quantised))
            _add(quantised, _CENTRE, found - mean)


def _by_name(model: ModelProto) -> dict[str, NodeProto]:
    return {node.name: node for node in model.graph.node}


def _has_bias(node: NodeProto | None) -> bool:
    return node is not None and node.op_type == "Conv" and len(node.input) == 3


def _means(
    model: ModelProto, values: Sequence[str], xrays: NDArray[np.uint8]
) -> list[NDArray[np.float64]]:
    """Return the mean of each channel of some values of a graph, float64 (C,) each."""
    extended = ModelProto()
    extended.CopyFrom(model)
    extended.graph.output.extend(map(helper.make_empty_tensor_value_info, values))
    session = open_session(extended.SerializeToString(), "cpu")
    sums = [np.zeros(0)] * len(values)
    for start in range(0, len(xrays), _BATCH):
        batch = xrays[start : start + _BATCH]
        for place, found in enumerate(session.run(list(values), {"xray": batch})):
            axes = tuple(axis for axis in range(found.ndim) if axis != 1)
            part = found.mean(axis=axes, dtype=np.float64) * len(batch) / len(xrays)
            sums[place] = sums[place] + part if len(sums[place]) else part
    return sums


def _shift_bias(model: ModelProto, node: NodeProto, shift: NDArray[np.float64]) -> None:
    """Add to the bias of a convolution, which is kept in integers with a scale."""
    (giver,) = (each for each in model.graph.node if node.input[2] in each.output)
    integers, scale, *_ = giver.input
    steps = next(each for each in model.graph.initializer if each.name == scale)
    _add(model, integers, np.rint(shift / numpy_helper.to_array(steps)))


def _add(model: ModelProto, name: str, by: NDArray[np.float64]) -> None:
    """Add to an initialiser, which keeps its type."""
    kept = next(each for each in model.graph.initializer if each.name == name)
    array = numpy_helper.to_array(kept)
    kept.CopyFrom(numpy_helper.from_array((array + by).astype(array.dtype), name))

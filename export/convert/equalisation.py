"""Channels of more equal range, which 8-bit integers with one scale for all hold better.

Between two convolutions, channel c is divided by a factor in the first and multiplied by it in
the second. As ReLU and maximum are homogeneous, the function stays the same, but for rounding.
After Nagel et al., "Data-free quantization through weight equalization and bias correction"
(2019); here the ranges are those of the activations, on calibration X-rays.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from toolkit.extras import require_onnxruntime

# A part of the way (in logarithms) to channels of equal range; the rest would cost the weights.
_EQUALISED = 0.3
_SMALLEST_RANGE = 1e-3
_PASSED_THROUGH = ("MaxPool", "Relu", "Reshape")


def equalised(model: ModelProto, calibration: Sequence[NDArray[np.uint8]]) -> ModelProto:
    """Return a pipeline of the same function, its convolutions' channels of more equal range.

    Args:
        model: as `export.convert.onnx.export_pipeline` writes it; left as it is.
        calibration: batches of X-rays, each uint8 (N, 224, 224).

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    equal = ModelProto()
    equal.CopyFrom(model)
    initializers = {each.name: each for each in equal.graph.initializer}
    pairs = list(_pairs(equal))
    largest = _largest(equal, [node.input[0] for _, _, node in pairs], calibration)
    for weight, biases, node in pairs:
        channels = initializers[weight].dims[0]
        ranges = largest[node.input[0]].reshape(channels, -1).max(axis=1)
        scale = np.maximum(ranges, _SMALLEST_RANGE * max(float(ranges.max()), 1e-6)) ** _EQUALISED
        scale /= np.exp(np.log(scale).mean())
        for name in (weight, *biases):
            axis = 1 if initializers[name].dims[0] == 1 else 0  # a bias map is (1, C, h, w)
            _scale(initializers[name], 1 / scale, axis)
        inputs = initializers[node.input[1]]
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        axis = 1 if node.op_type == "Conv" or transposed else 0
        _scale(inputs, np.repeat(scale, inputs.dims[axis] // channels), axis)
    return equal


def _scale(initializer: TensorProto, factors: NDArray[np.float64], axis: int) -> None:
    array = numpy_helper.to_array(initializer).astype(np.float64)
    shape = [-1 if each == axis else 1 for each in range(array.ndim)]
    scaled = (array * factors.reshape(shape)).astype(np.float32)
    initializer.CopyFrom(numpy_helper.from_array(scaled, initializer.name))


def _pairs(model: ModelProto) -> Iterator[tuple[str, list[str], NodeProto]]:
    """Yield a convolution's weight and biases with the node that takes what it gives."""
    givers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        before = givers[node.input[0]]
        while before.op_type in _PASSED_THROUGH:
            before = givers.get(before.input[0], NodeProto())
        biases = []
        if before.op_type == "Add" and (conv := givers.get(before.input[0])):
            biases, before = [before.input[1]], conv
        if before.op_type == "Conv":
            yield before.input[1], [*biases, *before.input[2:]], node


def _largest(
    model: ModelProto, names: list[str], batches: Sequence[NDArray[np.uint8]]
) -> dict[str, NDArray[np.float64]]:
    """Return the largest value in each channel or feature (axis 1) of some tensors."""
    observed = ModelProto()
    observed.CopyFrom(model)
    for name in names:
        observed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnxruntime = require_onnxruntime()
    session = onnxruntime.InferenceSession(
        observed.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[list[NDArray[np.float64]]] = []
    for xray in batches:
        values = session.run(names, {"xray": xray})
        found.append([np.moveaxis(v, 1, 0).reshape(v.shape[1], -1).max(axis=1) for v in values])
    return {
        name: np.max(each, axis=0).astype(np.float64)
        for name, each in zip(names, zip(*found, strict=True), strict=True)
    }

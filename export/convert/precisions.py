"""The pipeline in 8-bit integers.

Preprocessing stays as it is, so that `edge_map` has the same bytes, and so do the probabilities'
softmax, inputs, outputs and metadata.
"""

import copy
import logging
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from export.convert.correction import correct
from export.convert.onnx import OPSET, layer_of, specs_of, write_graph
from export.convert.pipeline import Pipeline
from toolkit.extras import require_onnxruntime
from toolkit.files import replacing
from toolkit.model.manifest import Manifest

_BATCH = 16
_QUANTISED = ["Conv", "Relu", "MaxPool"]


def export_int8(
    pipeline: Pipeline,
    manifest: Manifest,
    path: Path,
    calibration: NDArray[np.uint8],
    opset: int = OPSET,
) -> None:
    """Write the pipeline with 8-bit convolutions, all but the first and the last ones.

    Args:
        pipeline: in full precision.
        manifest: for what the file says of itself.
        path: the file to write, whole or not at all.
        calibration: X-rays to take the ranges from, uint8 (N, size, size); a few hundred, from the
            training part.
        opset: as of every ONNX file.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        UsageError: an unsupported opset, or the folder cannot be written.
    """
    require_onnxruntime()
    with TemporaryDirectory() as folder:
        single = Path(folder) / path.name
        specs = specs_of("int8", pipeline)
        write_graph(pipeline.fast(), specs, manifest, single, opset, "int8")
        quantise(single, path, calibration)


def quantise(single: Path, path: Path, xrays: NDArray[np.uint8]) -> None:
    """Write a graph of single precision with its inner convolutions in 8-bit integers.

    Weights are signed, of 7 bits with one scale for each output channel, and activations unsigned,
    over the range that the X-rays give. So the sum of two products is at most 2 * 255 * 64, which
    the 16 bits hold that processors without VNNI add them in: all give the same classes.

    Args:
        single: a pipeline graph.
        path: the file to write, whole or not at all.
        xrays: uint8 (N, size, size).

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        UsageError: the folder cannot be written.
    """
    require_onnxruntime()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(single)
    chosen = _nodes_to_quantise(model)
    pool_first(model, chosen)
    with replacing(path) as temporary, _silent():
        quantize_static(
            copy.deepcopy(model),
            str(temporary),
            _reader(xrays),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=_QUANTISED,
            nodes_to_quantize=chosen,
        )
        quantised = onnx.load(temporary)
        correct(quantised, model, chosen, xrays)
        del quantised.metadata_props[:]
        quantised.metadata_props.extend(model.metadata_props)
        quantised.ir_version = model.ir_version
        onnx.checker.check_model(quantised, full_check=True)
        onnx.save_model(quantised, str(temporary))


def pool_first(model: ModelProto, chosen: Container[str]) -> None:
    """Let each ReLU before a pooling come after it, but those in 8 bits.

    The largest of several ReLUs is the ReLU of the largest. Next to what is in 8 bits, ONNX Runtime
    would take the pooling for such as well, and has no fast one for it there.
    """
    takers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for value in node.input:
            takers.setdefault(value, []).append(node)
    for node in model.graph.node:
        after = takers.get(node.output[0], []) if node.op_type == "Relu" else []
        if node.name in chosen or [each.op_type for each in after] != ["MaxPool"]:
            continue
        pool, relu = copy.deepcopy(after[0]), copy.deepcopy(node)
        pool.input[:], pool.output[:] = relu.input, relu.output
        relu.input[:], relu.output[:] = after[0].input, after[0].output
        node.CopyFrom(pool)
        after[0].CopyFrom(relu)
    # Shapes between the two are others now.
    del model.graph.value_info[:]


def _nodes_to_quantise(model: ModelProto) -> list[str]:
    """Return the network's convolutions between its first and last ones, and what follows them.

    Of a network without any, those after the first ones, or all.
    """
    nodes = [node for node in model.graph.node if layer_of(node)]
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    after, before = _reached(model.graph.node, convolutions)
    follows = {node.name for node in convolutions if after.intersection(node.input)}
    inner = {node.name for node in convolutions if before.intersection(node.output)} & follows
    chosen: list[str] = []
    given: set[str] = set()
    for node in nodes:
        is_conv = node.name in (inner or follows or {each.name for each in convolutions})
        ends = inner and not before.intersection(node.output)
        simple = node.op_type in _QUANTISED and node.op_type != "Conv"
        if is_conv or (simple and not ends and given.intersection(node.input)):
            chosen.append(node.name)
            given.update(node.output)
    return chosen


def _reached(
    nodes: Sequence[NodeProto], convolutions: Sequence[NodeProto]
) -> tuple[set[str], set[str]]:
    """Return the values that come after some convolution, and those that come before one."""
    names = {node.name for node in convolutions}
    after: set[str] = set()
    before: set[str] = set()
    # Nodes are in the order in which they run.
    for node in nodes:
        if node.name in names or after.intersection(node.input):
            after.update(node.output)
    for node in reversed(nodes):
        if node.name in names or before.intersection(node.output):
            before.update(node.input)
    return after, before


def _reader(xrays: NDArray[np.uint8]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(xrays), _BATCH)
            self.batches = ({"xray": xrays[start : start + _BATCH]} for start in starts)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self.batches, None)

    return Reader()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the quantizer's advice from the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

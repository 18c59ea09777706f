"""The pipeline in half precision and in 8-bit integers.

Preprocessing stays as it is in both, so that `edge_map` has the same bytes, and so do the
probabilities' softmax, inputs, outputs and metadata.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.convert.equalisation import equalised
from export.convert.onnx import layer_of
from toolkit.extras import require_onnxruntime
from toolkit.files import replacing

_BATCH = 16
_HALF = TensorProto.FLOAT16


def convert_fp16(fp32: Path, target: Path) -> None:
    """Write the pipeline with the network's weights and operators in half precision.

    Args:
        fp32: a pipeline graph as `export.convert.onnx.export_pipeline` writes it.
        target: the file to write, whole or not at all.

    Raises:
        UsageError: the folder cannot be written.
    """
    model = onnx.load(fp32)
    chosen = _after(model, _is_learned, own=True)
    half = _halved(model, chosen - _after(model, lambda node: "logits" in node.output))
    _save(half, model, "fp16", target)


def quantize_int8(packed: Path, target: Path, calibration: NDArray[np.uint8]) -> None:
    """Write the pipeline with 8-bit convolutions, all but the last of each branch.

    Weights are signed, one scale for each output channel; activations are unsigned, over the
    range that the calibration X-rays give, after `export.convert.equalisation`.

    Args:
        packed: a graph of `export.convert.packing.PackedPipeline`.
        target: the file to write, whole or not at all.
        calibration: X-rays to take the ranges from, uint8 (N, 224, 224); a few hundred, from the
            training part.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        UsageError: the folder cannot be written.
    """
    require_onnxruntime()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(packed)
    # With both in it, the range of the inputs is all of 0..255, and their scale exactly 1.
    ends = np.stack([np.full(calibration.shape[1:], level, np.uint8) for level in (0, 255)])
    xrays = np.concatenate([calibration, ends])
    equal = equalised(model, list(_batches(xrays)))
    with replacing(target) as temporary, _silent():
        quantize_static(
            equal,
            str(temporary),
            _reader(xrays),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv", "Relu", "MaxPool"],
            nodes_to_quantize=_quantized(equal),
        )
        quantized = onnx.load(temporary)
    _save(quantized, model, "int8", target)


def _quantized(model: ModelProto) -> list[str]:
    """Return the convolutions that another one follows, and what lies between the two."""
    followed = _before(model, _is_learned)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Relu", "MaxPool")
        and node.name in followed & _after(model, _is_learned, own=True)
    ]


def _is_learned(node: NodeProto) -> bool:
    return node.op_type == "Conv" and bool(layer_of(node))


def _save(model: ModelProto, source: ModelProto, precision: str, target: Path) -> None:
    del model.metadata_props[:]
    properties = {each.key: each.value for each in source.metadata_props}
    helper.set_model_props(model, properties | {"precision": precision})
    model.ir_version = source.ir_version
    onnx.checker.check_model(model, full_check=True)
    with replacing(target) as temporary:
        onnx.save_model(model, str(temporary))


def _halved(model: ModelProto, chosen: set[str]) -> ModelProto:
    """Return the model with some nodes in half precision, cast to and from it at their borders.

    ONNX Runtime's own converter also sends what it is told to leave alone through half precision
    and back, which would change the edges.
    """
    half = ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    halves = [node for node in graph.node if node.name in chosen]
    weights = {name for node in halves for name in node.input}
    for initializer in graph.initializer:
        if initializer.name in weights and initializer.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(initializer).astype(np.float16)
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    constants = {each.name for each in graph.initializer}
    within = {name for node in halves for name in node.output}
    others = [node for node in graph.node if node.name not in chosen]
    leaving = within & (
        {name for node in others for name in node.input} | {each.name for each in graph.output}
    )
    inner = {name: f"{name}_half" for name in leaving}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in chosen:
            for place, name in enumerate(node.input):
                if name not in constants | within and name not in inner:
                    inner[name] = f"{name}_half"
                    nodes.append(helper.make_node("Cast", [name], [inner[name]], to=_HALF))
                node.input[place] = inner.get(name, name)
            node.output[:] = [inner.get(name, name) for name in node.output]
        nodes.append(node)
        if node.name in chosen:
            nodes += [
                helper.make_node("Cast", [inner[name]], [name], to=TensorProto.FLOAT)
                for name in leaving
                if inner[name] in node.output
            ]
    del graph.value_info[:]
    del graph.node[:]
    graph.node.extend(nodes)
    return half


def _after(model: ModelProto, chosen: Callable[[NodeProto], bool], own: bool = False) -> set[str]:
    """Return the names of the nodes that compute with what a chosen node gives.

    With `own`, the chosen nodes are among them.
    """
    return _reached(model.graph.node, chosen, own, lambda node: (node.input, node.output))


def _before(model: ModelProto, chosen: Callable[[NodeProto], bool]) -> set[str]:
    """Return the names of the nodes that a chosen node computes with."""
    nodes = reversed(model.graph.node)
    return _reached(nodes, chosen, False, lambda node: (node.output, node.input))


def _reached(
    nodes: Iterable[NodeProto],
    chosen: Callable[[NodeProto], bool],
    own: bool,
    ends: Callable[[NodeProto], tuple[Iterable[str], Iterable[str]]],
) -> set[str]:
    names: set[str] = set()
    values: set[str] = set()
    for node in nodes:  # ONNX keeps them in the order in which they can run
        near, far = ends(node)
        reached = bool(values.intersection(near))
        if reached or (own and chosen(node)):
            names.add(node.name)
        if reached or chosen(node):
            values.update(far)
    return names


def _batches(xrays: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (xrays[start : start + _BATCH] for start in range(0, len(xrays), _BATCH))


def _reader(xrays: NDArray[np.uint8]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = _batches(xrays)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"xray": batch}

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

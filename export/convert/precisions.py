"""The pipeline in 8-bit integers.

Preprocessing stays as it is, so that `edge_map` has the same bytes, and so do the probabilities'
softmax, inputs, outputs and metadata.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

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
    """Write the pipeline with 8-bit convolutions, all but the last ones on the way to the logits.

    Args:
        pipeline: in full precision; its scope is left out.
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
    # With both in it, the range of the inputs is all of 0..255, and their scale exactly 1.
    ends = np.stack([np.full(calibration.shape[1:], level, np.uint8) for level in (0, 255)])
    xrays = np.concatenate([calibration, ends])

    packed = pipeline.without_scope()
    if prepare := getattr(pipeline.definition, "quantisable", None):
        packed = prepare(packed, torch.from_numpy(xrays))
    with TemporaryDirectory() as folder:
        single = Path(folder) / path.name
        write_graph(packed, specs_of("int8", pipeline), manifest, single, opset, "int8")
        quantise(single, path, xrays)


def quantise(single: Path, path: Path, xrays: NDArray[np.uint8]) -> None:
    """Write a graph of single precision with its convolutions in 8-bit integers.

    Weights are signed, one scale for each output channel; activations are unsigned, over the
    range that the X-rays give.

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
    with replacing(path) as temporary, _silent():
        quantize_static(
            model,
            str(temporary),
            _reader(xrays),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=_QUANTISED,
            nodes_to_quantize=_nodes_to_quantise(model),
        )
        quantised = onnx.load(temporary)
        del quantised.metadata_props[:]
        quantised.metadata_props.extend(model.metadata_props)
        quantised.ir_version = model.ir_version
        onnx.checker.check_model(quantised, full_check=True)
        onnx.save_model(quantised, str(temporary))


def _nodes_to_quantise(model: ModelProto) -> list[str]:
    """Return the network's convolutions that another one follows, and what lies between."""
    takers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for value in node.input:
            takers.setdefault(value, []).append(node)
    # Nodes are in the order in which they run: what follows one is known before it.
    followed: dict[str, bool] = {}
    for node in reversed(model.graph.node):
        after = [each for value in node.output for each in takers.get(value, ())]
        followed[node.name] = any(e.op_type == "Conv" or followed[e.name] for e in after)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _QUANTISED and followed[node.name] and layer_of(node)
    ]


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

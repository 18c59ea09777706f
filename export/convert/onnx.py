"""PyTorch modules to ONNX files: one file each, checked, with what they are in the metadata."""

import contextlib
import io
import json
import logging
import re
import warnings
from pathlib import Path

import onnx
import torch
from onnx import GraphProto, NodeProto
from torch import Tensor, nn

from export.convert.folding import Explainer, FoldedPipeline
from export.convert.packing import PackedPipeline
from export.convert.pipeline import Pipeline
from toolkit.errors import UsageError
from toolkit.files import replacing
from toolkit.model.equivalence import TensorSpec
from toolkit.model.manifest import Manifest
from toolkit.networks.study import EDGE_SIZE, IMAGE_SIZE, IntermediarySpaceModel

OPSET = 20
OPSETS = range(18, 24)
IR_VERSION = 10
_LICENCE = "Apache-2.0"
_SCOPES = "pkg.torch.onnx.name_scopes"
_LAYER = re.compile(r"(?:(?:images|edges)Classifier|outputCombiner)\.\d+")


def network_specs(classes: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of the two-input network's graph."""
    return (
        (
            TensorSpec("image", "float32", ("batch", 3, IMAGE_SIZE, IMAGE_SIZE)),
            TensorSpec("edges", "float32", ("batch", 1, EDGE_SIZE, EDGE_SIZE)),
        ),
        (TensorSpec("logits", "float32", ("batch", classes)),),
    )


def pipeline_specs(
    classes: int, scoped: bool = False
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of the pipeline's graph, `novelty` among them if `scoped`."""
    novelty = (TensorSpec("novelty", "float32", ("batch",)),)
    return (
        (TensorSpec("xray", "uint8", ("batch", EDGE_SIZE, EDGE_SIZE)),),
        (
            TensorSpec("logits", "float32", ("batch", classes)),
            TensorSpec("probabilities", "float32", ("batch", classes)),
            TensorSpec("edge_map", "uint8", ("batch", EDGE_SIZE, EDGE_SIZE)),
        )
        + novelty * scoped,
    )


def explainer_specs(classes: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of the explainer's graph."""
    return (
        (
            TensorSpec("xray", "uint8", ("batch", EDGE_SIZE, EDGE_SIZE)),
            TensorSpec("edge_map", "uint8", ("batch", EDGE_SIZE, EDGE_SIZE)),
        ),
        (TensorSpec("logits", "float32", ("batch", classes)),),
    )


def layer_of(node: NodeProto) -> str:
    """Return the network's layer that a node is part of, such as `outputCombiner.8`, or nothing.

    PyTorch's exporter keeps the modules' names with every node.
    """
    scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "")
    found = _LAYER.findall(scopes)
    return str(found[-1]) if found else ""


def export_network(
    network: IntermediarySpaceModel, manifest: Manifest, path: Path, opset: int = OPSET
) -> None:
    """Write the graph from `image` and `edges` to `logits`.

    Raises:
        UsageError: an opset outside `OPSETS`, or a folder that cannot be written.
    """
    inputs, outputs = network_specs(network.classes)
    _export(network, inputs, outputs, manifest, path, opset)


def export_pipeline(pipeline: Pipeline, manifest: Manifest, path: Path, opset: int = OPSET) -> None:
    """Write the graph from `xray` to `logits`, `probabilities`, `edge_map` and, with a scope,
    `novelty`; grey folded.

    Raises:
        UsageError: an opset outside `OPSETS`, or a folder that cannot be written.
    """
    inputs, outputs = pipeline_specs(pipeline.network.classes, pipeline.scope is not None)
    _export(FoldedPipeline(pipeline), inputs, outputs, manifest, path, opset)


def export_explainer(
    pipeline: Pipeline, manifest: Manifest, path: Path, opset: int = OPSET
) -> None:
    """Write the graph from `xray` and `edge_map`, each for its branch, to `logits`.

    Raises:
        UsageError: an opset outside `OPSETS`, or a folder that cannot be written.
    """
    inputs, outputs = explainer_specs(pipeline.network.classes)
    _export(Explainer(pipeline), inputs, outputs, manifest, path, opset)


def export_packed(pipeline: Pipeline, manifest: Manifest, path: Path, opset: int = OPSET) -> None:
    """Write the pipeline's graph as `export.convert.precisions.quantize_int8` takes it.

    Raises:
        UsageError: an opset outside `OPSETS`, or a folder that cannot be written.
    """
    inputs, outputs = pipeline_specs(pipeline.network.classes)
    _export(PackedPipeline(pipeline), inputs, outputs, manifest, path, opset)


def metadata(manifest: Manifest) -> dict[str, str]:
    """Return what an ONNX file says of itself; values other than text are JSON."""
    constants = manifest.preprocessing
    return {
        "name": manifest.name,
        "classes": json.dumps(manifest.labels.classes),
        "grades": json.dumps(manifest.labels.grades),
        "image_mean": json.dumps(constants.image_mean),
        "image_std": json.dumps(constants.image_std),
        "edge_threshold": json.dumps(constants.edge_threshold),
        "edge_mean": json.dumps(constants.edge_mean),
        "edge_std": json.dumps(constants.edge_std),
        "temperature": json.dumps(manifest.temperature),
        "checkpoint_sha256": manifest.training.checkpoint_sha256,
        "toolkit_version": manifest.training.versions.get("toolkit", ""),
        "torch_version": torch.__version__,
        "licence": _LICENCE,
    }


def _export(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    manifest: Manifest,
    path: Path,
    opset: int,
) -> None:
    if opset not in OPSETS:
        raise UsageError(
            f"opset {opset} is not supported: choose {OPSETS.start} to {OPSETS.stop - 1}"
        )
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(_example(spec) for spec in inputs),
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_shapes=tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    _forget_sources(model.graph)
    onnx.helper.set_model_props(model, metadata(manifest))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    with replacing(path) as temporary:
        onnx.save_model(model, str(temporary))


def _forget_sources(graph: GraphProto) -> None:
    """Drop all that the exporter noted but the layers' names: its stack traces name our folders."""
    for each in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del each.metadata_props[:]
    for node in graph.node:
        scopes = [each for each in node.metadata_props if each.key == _SCOPES]
        del node.metadata_props[:]
        node.metadata_props.extend(scopes)


def _example(spec: TensorSpec) -> Tensor:
    # A batch of 2: a batch of 1 would be specialised.
    shape = [2, *(int(size) for size in spec.shape[1:])]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Keep the exporter's progress and advice from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)

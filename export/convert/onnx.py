"""PyTorch modules to ONNX files: one file each, checked, with what they are in the metadata."""

import ast
import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto
from torch import Tensor, nn

from export.convert.pipeline import Pipeline, SplitPipeline
from toolkit.errors import UsageError
from toolkit.files import replacing
from toolkit.model.artifacts import graph_words
from toolkit.model.equivalence import TensorSpec
from toolkit.model.files import LOWER
from toolkit.model.manifest import Manifest
from toolkit.networks.base import Classifier, Network
from toolkit.networks.half import halve
from toolkit.networks.loading import place_of, running
from toolkit.train import novelty

Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""The inputs and the outputs of a graph."""

OPSET = 20
OPSETS = range(18, 24)
IR_VERSION = 10
_LICENCE = "Apache-2.0"
_SCOPES = "pkg.torch.onnx.name_scopes"
PREPROCESSING = "preprocessing"
"""What a pipeline calls the module that makes the network's inputs."""
_OTHERS = (PREPROCESSING, "scope", "network")


def specs_of(kind: str, pipeline: Pipeline) -> Specs:
    """Return the inputs and outputs of the artifact of some kind that is made of a pipeline."""
    definition = pipeline.definition
    xray = TensorSpec("xray", "uint8", ("batch", *pipeline.xray_shape()))
    view = TensorSpec("", "uint8", ("batch", definition.size, definition.size))
    views = tuple(replace(view, name=name) for name in definition.views)
    logits = TensorSpec("logits", "float32", ("batch", pipeline.classes))
    if kind == "network":
        return tuple(definition.inputs), (logits,)
    if kind == "explainer":
        return (xray, *views), (logits,)
    told = (TensorSpec("novelty", "float32", ("batch",)),) * (pipeline.scope is not None)
    return (xray,), (logits, replace(logits, name="probabilities"), *views, *told)


def export_onnx(
    kind: str, pipeline: Pipeline, manifest: Manifest, path: Path, opset: int = OPSET
) -> None:
    """Write an ONNX file of some kind but `int8`, which `export.convert.precisions` makes.

    Raises:
        UsageError: an opset outside `OPSETS`, or a folder that cannot be written.
        DefinitionError: the network does what no ONNX operator does.
    """
    modules: dict[str, Callable[[], nn.Module]] = {
        "network": lambda: pipeline.network,
        "pipeline": pipeline.fast,
        "explainer": lambda: SplitPipeline(pipeline.fast()),
        "fp16": lambda: halve(pipeline.fast()),
    }
    precision = kind if kind in LOWER else ""
    write_graph(modules[kind](), specs_of(kind, pipeline), manifest, path, opset, precision)


@torch.no_grad()
def check_conversion(network: Network, classes: int, config: dict[str, Any]) -> None:
    """Make sure that a network which is yet to be trained can be written as ONNX.

    Args:
        network: a definition that can work, as `toolkit.networks.checking.check` says.
        classes: of the data.
        config: what the module is made with.

    Raises:
        DefinitionError: it does what no ONNX operator does.
    """
    with torch.random.fork_rng(devices=[]):
        classifier = Classifier(network, network.module(classes, **config)).eval()
    xrays = torch.zeros(2, *classifier.xray_shape(), dtype=torch.uint8)
    maps = novelty.run_with_maps(classifier, classifier.inputs(xrays))[1]
    scope = novelty.gaussian(novelty.summary(maps).double()) if all(maps) else None
    pipeline = Pipeline(classifier, 2.0, scope)
    _converted(pipeline.fast(), specs_of("pipeline", pipeline), OPSET, optimise=False)


def layer_of(node: NodeProto) -> str:
    """Return the network's module that a node is part of, such as `outputCombiner.8`, or nothing.

    PyTorch's exporter keeps the modules' names with every node: the last but one is the innermost.
    """
    names = scopes_of(node)
    # In a pipeline the network is one module beside the preprocessing.
    within = names[-2].removeprefix("network.") if len(names) > 1 else ""
    return "" if within.partition(".")[0] in _OTHERS else within


def scopes_of(node: NodeProto) -> list[str]:
    """Return the modules that a node lies in, from the outermost, and its own name."""
    scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "[]")
    names: list[str] = ast.literal_eval(scopes)
    return names


def metadata(manifest: Manifest) -> dict[str, str]:
    """Return what an ONNX file says of itself; values other than text are JSON."""
    return {
        "name": manifest.name,
        **graph_words(manifest),
        "toolkit_version": manifest.training.versions.get("toolkit", ""),
        "torch_version": torch.__version__,
        "licence": _LICENCE,
    }


def write_graph(
    module: nn.Module,
    specs: Specs,
    manifest: Manifest,
    path: Path,
    opset: int = OPSET,
    precision: str = "",
) -> None:
    """Write a module in evaluation mode as one checked ONNX file.

    Args:
        module: from the inputs to the outputs of `specs`.
        specs: of the graph; the batch stays free.
        manifest: for what the file says of itself.
        path: the file to write, whole or not at all.
        opset: one of `OPSETS`.
        precision: to note in the file, where it is lower than fp32.

    Raises:
        UsageError: an opset outside `OPSETS`, or a folder that cannot be written.
        DefinitionError: the network does what no ONNX operator does.
    """
    if opset not in OPSETS:
        raise UsageError(
            f"opset {opset} is not supported: choose {OPSETS.start} to {OPSETS.stop - 1}"
        )
    model = _converted(module, specs, opset)
    model.ir_version = IR_VERSION
    _forget_sources(model.graph)
    noted = {"precision": precision} if precision else {}
    onnx.helper.set_model_props(model, metadata(manifest) | noted)
    what = f"cannot be written as ONNX{precision and f' in {precision}'}"
    with running(None, what, _place(module)):
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    with replacing(path) as temporary:
        onnx.save_model(model, str(temporary))


def _place(module: nn.Module) -> str:
    return place_of(getattr(module, "definition", module))


def _converted(module: nn.Module, specs: Specs, opset: int, optimise: bool = True) -> ModelProto:
    inputs, outputs = specs
    with running(None, "cannot be written as ONNX", _place(module)), _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(_example(spec) for spec in inputs),
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_shapes=_free_batch(module, len(inputs)),
            external_data=False,
            optimize=optimise,
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def _free_batch(module: nn.Module, count: int) -> tuple[Any, ...]:
    """Return how the batch of each of so many inputs is free; those of `*inputs` are one tuple."""
    shapes = tuple({0: torch.export.Dim("batch", min=1)} for _ in range(count))
    parameters = inspect.signature(module.forward).parameters.values()
    for place, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL and place < count:
            return *shapes[:place], shapes[place:]
    return shapes


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
def _quiet() -> Iterator[None]:
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

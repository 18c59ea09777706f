"""The pipeline as files that PyTorch itself opens: traced TorchScript and torch.export's pt2."""

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.convert.onnx import metadata
from export.convert.pipeline import Pipeline
from toolkit.errors import ModelRefusedError
from toolkit.files import write_bytes
from toolkit.model.manifest import Manifest
from toolkit.networks.loading import place_of, running


def export_torchscript(pipeline: Pipeline, manifest: Manifest, path: Path) -> None:
    """Trace the pipeline and write it with its metadata.

    Raises:
        UsageError: the folder cannot be written.
        DefinitionError: the network cannot be traced.
    """
    content = io.BytesIO()
    where = place_of(pipeline.definition)
    # PyTorch 2.13 deprecates all of torch.jit; the format stays for those who load it from C++.
    with (
        running(None, "cannot be written as TorchScript", where),
        warnings.catch_warnings(action="ignore"),
        torch.no_grad(),
    ):
        traced = torch.jit.trace(pipeline.eval(), (_example(pipeline),), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, content, _extra_files=metadata(manifest))
    write_bytes(path, _without_sources(content))


def export_pt2(pipeline: Pipeline, manifest: Manifest, path: Path) -> None:
    """Write the pipeline as torch.export's program, with a free batch and its metadata.

    Raises:
        UsageError: the folder cannot be written.
        DefinitionError: the network cannot be exported.
    """
    content = io.BytesIO()
    where = place_of(pipeline.definition)
    batch = torch.export.Dim("batch", min=1)
    with (
        running(None, "cannot be written as pt2", where),
        warnings.catch_warnings(action="ignore"),
    ):
        program = torch.export.export(
            pipeline.eval(), (_example(pipeline),), dynamic_shapes=({0: batch},), strict=False
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        torch.export.save(program, content, extra_files=metadata(manifest))
    write_bytes(path, content.getvalue())


def open_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Load a traced pipeline of ours.

    Raises:
        ModelRefusedError: the file cannot be opened.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelRefusedError(f"PyTorch cannot open {path}: export it again") from error
    return module


def open_pt2(path: Path) -> torch.fx.GraphModule:
    """Load an exported program of ours.

    Raises:
        ModelRefusedError: the file cannot be opened.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:
        # A damaged archive surfaces as almost any exception.
        raise ModelRefusedError(f"PyTorch cannot open {path}: export it again") from error
    assert isinstance(module, torch.fx.GraphModule)
    return module


OPENERS: dict[str, Callable[[Path], Any]] = {"torchscript": open_torchscript, "pt2": open_pt2}
"""What opens the formats that are PyTorch's own; both take X-rays and give what a pipeline does."""


def _without_sources(archive: io.BytesIO) -> bytes:
    """Drop the stack traces of the tracing from a TorchScript file: they name our folders."""
    content = io.BytesIO()
    with zipfile.ZipFile(archive) as traced, zipfile.ZipFile(content, "w") as kept:
        for entry in traced.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, traced.read(entry))
    return content.getvalue()


def _example(pipeline: Pipeline) -> Tensor:
    # A batch of 2: a batch of 1 would be specialised.
    return torch.zeros((2, *pipeline.xray_shape()), dtype=torch.uint8)

"""A model's checkpoint to proven files: exported aside, compared, and only then named."""

import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from export.equivalence import compare_onnx, references
from export.onnx_graph import (
    OPSET,
    export_network,
    export_pipeline,
    network_specs,
    pipeline_specs,
)
from export.pipeline import Pipeline
from export.samples import samples
from toolkit import manifest
from toolkit.checkpoint import load_network
from toolkit.errors import CheckpointError, UsageError
from toolkit.extras import versions
from toolkit.files import sha256
from toolkit.manifest import Artifact, EquivalenceRecord, ExportRecord, Manifest
from toolkit.preprocessing import Preprocessing
from toolkit.store import ModelFiles

KINDS = ("network", "pipeline")


def load_pipeline(files: ModelFiles, record: Manifest) -> Pipeline:
    """Return the trained model of a manifest as the module that is served.

    Raises:
        CheckpointError: the checkpoint is missing, corrupt, or not the manifest's.
    """
    classes = len(record.labels.classes)
    network = load_network(files.checkpoint, record.network, classes)
    if sha256(files.checkpoint) != record.training.checkpoint_sha256:
        raise CheckpointError(
            f"{files.checkpoint} is not the checkpoint of {files.manifest}: its SHA-256 differs; "
            "train again or restore it"
        )
    return Pipeline(Preprocessing(record.preprocessing), network)


def export_onnx(source: ModelFiles, target: ModelFiles, data: Path | None) -> Manifest:
    """Export network and pipeline, compare both with PyTorch, and keep them if they are equal.

    Where one differs, neither file nor an earlier one stays under the final name; the returned
    manifest says what differed.

    Args:
        source: the trained model.
        target: where files and manifest go.
        data: a folder of real X-rays to compare on as well.

    Raises:
        ManifestError, CheckpointError: there is no such model, or it is corrupt.
        UsageError: the folder cannot be written.
    """
    record = manifest.load(source.manifest)
    pipeline = load_pipeline(source, record)
    inputs = samples(data)
    reference = references(pipeline, inputs)
    drafts = {kind: _draft(target.path(kind)) for kind in KINDS}
    try:
        export_network(pipeline.network, record, drafts["network"])
        export_pipeline(pipeline, record, drafts["pipeline"])
        specs = {
            "network": network_specs(pipeline.network.classes),
            "pipeline": pipeline_specs(pipeline.network.classes),
        }
        legs = {
            kind: compare_onnx(
                drafts[kind], *specs[kind], reference, inputs, target.path(kind).name
            )
            for kind in KINDS
        }
        result = replace(
            record,
            export=ExportRecord(
                {
                    kind: Artifact(legs[kind].file, legs[kind].sha256, "onnx", OPSET, *specs[kind])
                    for kind in KINDS
                },
                _versions(),
            ),
            equivalence=EquivalenceRecord(
                passed=all(leg.passed for leg in legs.values()),
                legs=legs,
                inputs=inputs.counts(),
                versions=_versions(),
            ),
        )
        _keep(result, drafts, target, record)
    finally:
        for draft in drafts.values():
            # Where the folder is a file, there is nothing to remove.
            with suppress(OSError):
                draft.unlink()
    return result


def _keep(result: Manifest, drafts: dict[str, Path], target: ModelFiles, record: Manifest) -> None:
    assert result.equivalence
    try:
        for kind, draft in drafts.items():
            if result.equivalence.passed:
                draft.replace(target.path(kind))
            else:
                target.path(kind).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {target.folder}: {error.strerror}") from error
    if result.equivalence.passed:
        manifest.save(result, target.manifest)
    elif target.manifest.exists():
        manifest.save(replace(record, export=None, equivalence=None), target.manifest)


def _draft(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(4)}.{path.name}")


def _versions() -> dict[str, str]:
    found = versions("toolkit", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")
    return {"torch": torch.__version__} | found

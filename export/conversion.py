"""A model's checkpoint to proven files: exported aside, compared, and only then named."""

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from export.equivalence import references
from export.legs import compare_file, specs_of
from export.onnx_graph import OPSET, export_network, export_pipeline
from export.pipeline import Pipeline
from export.samples import samples
from export.torch_formats import export_pt2, export_torchscript
from toolkit import manifest
from toolkit.checkpoint import load_trained
from toolkit.errors import ManifestError, UsageError
from toolkit.extras import versions
from toolkit.manifest import Artifact, EquivalenceRecord, ExportRecord, Leg, Manifest
from toolkit.preprocessing import Preprocessing
from toolkit.store import ModelFiles

KINDS = ("network", "pipeline")


def load_pipeline(files: ModelFiles, record: Manifest) -> Pipeline:
    """Return the trained model of a manifest as the module that is served.

    Raises:
        CheckpointError: the checkpoint is missing, corrupt, or not the manifest's.
    """
    return Pipeline(Preprocessing(record.preprocessing), load_trained(files, record))


def export_onnx(
    source: ModelFiles, target: ModelFiles, data: Path | None, opset: int = OPSET
) -> Manifest:
    """Export network and pipeline to ONNX, and keep them if both are equal to PyTorch.

    Args:
        source: the trained model.
        target: where files and manifest go.
        data: a folder of real X-rays to compare on as well.
        opset: of the ONNX files.

    Returns:
        The manifest with the verdict. Where a file differs, none of these files stays under its
        final name, an earlier one neither, and the manifest on disk knows of none.

    Raises:
        ManifestError, CheckpointError: there is no such model, or it is corrupt.
        UsageError: an unsupported opset, or a folder that cannot be written.
    """
    return _exported("onnx", KINDS, source, target, data, opset)


def export_torch(kind: str, source: ModelFiles, target: ModelFiles, data: Path | None) -> Manifest:
    """Export the pipeline as `torchscript` or `pt2`, as `export_onnx` does."""
    return _exported(kind, (kind,), source, target, data, 0)


def _exported(
    format_name: str,
    kinds: tuple[str, ...],
    source: ModelFiles,
    target: ModelFiles,
    data: Path | None,
    opset: int,
) -> Manifest:
    record = manifest.load(source.manifest)
    pipeline = load_pipeline(source, record)
    inputs = samples(data)
    reference = references(pipeline, inputs)
    drafts = {kind: _draft(target.path(kind)) for kind in kinds}
    artifacts: dict[str, Artifact] = {}
    legs: dict[str, Leg] = {}
    try:
        for kind in kinds:
            _write(kind, pipeline, record, drafts[kind], opset)
        for kind in kinds:
            specs = specs_of(kind, pipeline.network.classes)
            legs[kind] = compare_file(
                kind, drafts[kind], reference, inputs, specs, target.path(kind).name
            )
            artifacts[kind] = Artifact(
                legs[kind].file, legs[kind].sha256, format_name, opset, *specs
            )
        result = _merged(_former(target, record), artifacts, legs, inputs.counts())
        _keep(result, drafts, target, all(leg.passed for leg in legs.values()))
    finally:
        for draft in drafts.values():
            # Where the folder is a file, there is nothing to remove.
            with suppress(OSError):
                draft.unlink()
    return result


def _write(kind: str, pipeline: Pipeline, record: Manifest, path: Path, opset: int) -> None:
    if kind == "network":
        export_network(pipeline.network, record, path, opset)
    elif kind == "pipeline":
        export_pipeline(pipeline, record, path, opset)
    elif kind == "torchscript":
        export_torchscript(pipeline, record, path)
    else:
        export_pt2(pipeline, record, path)


def _former(target: ModelFiles, record: Manifest) -> Manifest:
    """Return the manifest to add to: the target's, where it is of the same checkpoint."""
    with suppress(ManifestError):
        former = manifest.load(target.manifest)
        if former.training == record.training:
            return former
    return record


def _merged(
    record: Manifest, artifacts: dict[str, Artifact], legs: dict[str, Leg], inputs: dict[str, int]
) -> Manifest:
    """Return the manifest with these artifacts and verdicts beside those of other formats."""
    other_artifacts = record.export.artifacts if record.export else {}
    other_legs = record.equivalence.legs if record.equivalence else {}
    all_legs = other_legs | legs
    return replace(
        record,
        export=ExportRecord(other_artifacts | artifacts, _versions()),
        equivalence=EquivalenceRecord(
            passed=all(leg.passed for leg in all_legs.values()),
            legs=all_legs,
            inputs=inputs,
            versions=_versions(),
        ),
    )


def _without(record: Manifest, kinds: Iterable[str]) -> Manifest:
    """Return the manifest without these artifacts and their verdicts."""
    assert record.export and record.equivalence
    artifacts = {k: v for k, v in record.export.artifacts.items() if k not in kinds}
    legs = {k: v for k, v in record.equivalence.legs.items() if k not in kinds}
    if not legs:
        return replace(record, export=None, equivalence=None)
    return replace(
        record,
        export=replace(record.export, artifacts=artifacts),
        equivalence=replace(
            record.equivalence, legs=legs, passed=all(leg.passed for leg in legs.values())
        ),
    )


def _keep(result: Manifest, drafts: dict[str, Path], target: ModelFiles, passed: bool) -> None:
    try:
        for kind, draft in drafts.items():
            if passed:
                draft.replace(target.path(kind))
            else:
                target.path(kind).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {target.folder}: {error.strerror}") from error
    if passed:
        manifest.save(result, target.manifest)
    elif target.manifest.exists():
        manifest.save(_without(result, drafts), target.manifest)


def _draft(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(4)}.{path.name}")


def _versions() -> dict[str, str]:
    found = versions("toolkit", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")
    return {"torch": torch.__version__} | found

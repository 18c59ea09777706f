"""Compares again what a model has: every artifact on disk, and a running service."""

from dataclasses import replace
from pathlib import Path

import torch

from export.legs import compare_file, reference_of
from export.pipeline import load_pipeline
from export.served import compare_service
from export.verdict import Verdict, passed
from toolkit import manifest
from toolkit.errors import ModelRefusedError
from toolkit.files import sha256
from toolkit.health import health
from toolkit.proof import Artifact, Leg
from toolkit.store import ModelFiles


def verify(files: ModelFiles, data: Path | None, url: str | None) -> Verdict:
    """Compare every exported file of a model, and the service at `url`, with PyTorch.

    The verdict over the files replaces the one in the manifest on disk.

    Args:
        files: the model.
        data: a folder of real X-rays to compare on as well.
        url: of a running service.

    Raises:
        ManifestError, CheckpointError: there is no such model, or it is corrupt.
        ModelRefusedError: nothing of it was exported.
        CheckFailedError: the service cannot be reached.
    """
    record = manifest.load(files.manifest)
    if record.export is None or record.equivalence is None:
        raise ModelRefusedError(
            f"{files.name} has no exported files: run `toolkit export onnx {files.name}`"
        )
    pipeline = load_pipeline(files, record)
    reference = reference_of(pipeline, record, data, record.export.artifacts)
    inputs = reference.samples
    legs: dict[str, Leg] = {}
    for kind, artifact in record.export.artifacts.items():
        path = files.path(kind)
        changed = _changed(path, artifact)
        if changed:
            legs[kind] = replace(
                record.equivalence.legs[kind], failures=(changed,), outputs=(), passed=False
            )
            continue
        legs[kind] = compare_file(kind, path, (artifact.inputs, artifact.outputs), reference)
    equivalence = replace(
        record.equivalence,
        legs=dict(legs),
        inputs=inputs.counts(),
        passed=passed(legs),
    )
    record = replace(record, equivalence=equivalence)
    manifest.save(record, files.manifest)
    if url:
        served = record.export.artifacts["pipeline"].sha256 if record.export else ""
        legs["service"] = compare_service(url, pipeline, inputs, served)
    findings = health(
        pipeline.network, pipeline.preprocessing, torch.from_numpy(inputs.pixels), record
    )
    return Verdict(record, legs, inputs, tuple(findings))


def _changed(path: Path, artifact: Artifact) -> str:
    if not path.is_file():
        return f"{path} is missing: export it again"
    found = sha256(path)
    if found != artifact.sha256:
        return (
            f"{path} was changed or truncated: its SHA-256 is {found[:12]}..., the manifest's "
            f"{artifact.sha256[:12]}...; export it again"
        )
    return ""

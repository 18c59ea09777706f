"""Compares again what a model has: every artifact on disk, and a running service."""

from dataclasses import replace
from pathlib import Path

import torch

from export.compare.artifact import compare_file, reference_of
from export.compare.report import Equivalence, equivalence_record
from export.compare.service import compare_service
from export.convert.pipeline import load_pipeline
from toolkit.client import Client
from toolkit.errors import CheckFailedError, ManifestError, ModelRefusedError, UsageError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.artifacts import is_changed
from toolkit.model.equivalence import Artifact
from toolkit.model.files import LOWER, ModelFiles
from toolkit.train.health import health
from toolkit.xray.annotations.sources import NOTHING, Annotations


def verify(
    files: ModelFiles,
    data: Path | None,
    url: str | None,
    said: Annotations = NOTHING,
    network: str | None = None,
) -> Equivalence:
    """Compare every exported file of a model, and the service at `url`, with PyTorch.

    The record in the manifest on disk is replaced where it can be written. A file of lower
    precision keeps its leg where there is no `data` to judge it by, if it is still the file that
    was judged.

    Args:
        files: the model.
        data: a folder of real X-rays to compare on as well.
        url: of a running service.
        said: tables beside `data`, where the training had some, or others have.
        network: another definition of the network than the one that is kept, as it is meant.

    Raises:
        ManifestError, CheckpointError: there is no such model, or it is corrupt.
        DefinitionError: its network's definition is missing, changed, or does not run.
        ModelRefusedError: nothing of it was exported, or its manifest was changed since.
        UsageError: `url` is no address.
    """
    record = manifest.load(files.manifest)
    artifacts = record.export.artifacts if record.export else {}
    if record.equivalence is None or not artifacts or artifacts.keys() - record.equivalence.legs:
        raise ModelRefusedError(
            f"{files.name} has no exported files with their equivalence: run `toolkit export onnx "
            f"{files.name}`"
        )
    if is_changed(record):
        raise ModelRefusedError(
            f"{files.manifest} was changed since its files were proven: restore it, or run "
            f"`toolkit export onnx {files.name}`"
        )
    if url and "pipeline" not in artifacts:
        raise ModelRefusedError(
            f"{files.name} has no pipeline that a service could serve: run `toolkit export onnx "
            f"{files.name}`"
        )
    if url:
        # What is no address is said before files are compared for long.
        Client(url).close()
    pipeline = load_pipeline(files, record, network)
    reference = reference_of(pipeline, record, data, artifacts, said)
    legs = {kind: record.equivalence.legs[kind] for kind in artifacts}
    for kind, artifact in artifacts.items():
        path = files.path(kind)
        if changed := _changed(path, artifact):
            legs[kind] = replace(legs[kind], failures=(changed,), outputs=(), passed=False)
        elif kind not in LOWER or reference.gate_samples:
            legs[kind] = compare_file(kind, path, (artifact.inputs, artifact.outputs), reference)
    samples = reference.samples
    former, unkept, unreached = record, "", ""
    record = replace(record, equivalence=equivalence_record(record, dict(legs), samples.counts()))
    try:
        if record != former:
            manifest.save_over(record, former, files.manifest)
    except (ManifestError, UsageError) as error:
        unkept = str(error)
    if url:
        try:
            legs["service"] = compare_service(url, pipeline, samples, artifacts["pipeline"].sha256)
        except CheckFailedError as error:
            unreached = str(error)
    xrays = torch.from_numpy(samples.pixels)
    findings = health(pipeline, xrays, record)
    return Equivalence(record, legs, samples, tuple(findings), unkept, unreached)


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

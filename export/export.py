"""A model's checkpoint to proven files: exported aside, compared, and only then named."""

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import torch

from export.compare.artifact import compare_file, reference_of, save_golden
from export.compare.gate import GateSamples
from export.compare.report import Equivalence, current_versions, equivalence_record
from export.convert.clean_up import clean_up
from export.convert.onnx import OPSET, export_onnx, specs_of
from export.convert.pipeline import Pipeline, load_pipeline
from export.convert.precisions import export_int8
from export.convert.torch_formats import export_pt2, export_torchscript
from toolkit.errors import DataError, HealthError, ManifestError, UsageError
from toolkit.files import held_signals, link_target, write_bytes
from toolkit.model import manifest
from toolkit.model.artifacts import is_changed
from toolkit.model.equivalence import Artifact, ExportRecord, Leg
from toolkit.model.files import LOWER, ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.networks.checking import check
from toolkit.networks.loading import load
from toolkit.train.checkpoint import config_of
from toolkit.train.health import Finding, health
from toolkit.xray.annotations.sources import NOTHING, Annotations

KINDS = {
    ("onnx", "fp32"): ("network", "pipeline", "explainer"),
    ("onnx", "fp16"): ("fp16",),
    ("onnx", "int8"): ("int8",),
    ("torchscript", "fp32"): ("torchscript",),
    ("pt2", "fp32"): ("pt2",),
}
"""The kinds of artifact by format and precision."""


class DeadInput(StrEnum):
    """What to do with a network that one of its inputs has no effect on."""

    REFUSE = "refuse"
    ALLOW = "allow"
    DROP = "drop"


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        data: a folder of real X-rays to compare on as well; of graded ones for a precision lower
            than fp32, which is judged by them.
        said: tables beside them, where the training had some, or others have.
        opset: of the ONNX files.
        precision: `fp32`, `fp16` or `int8`.
        dead_input: what to do with one; `DROP` replaces what is provably constant.
        network: another definition of the network than the one that is kept, as it is meant.
    """

    data: Path | None = None
    opset: int = OPSET
    precision: str = "fp32"
    dead_input: DeadInput = DeadInput.REFUSE
    said: Annotations = NOTHING
    network: str | None = None


def export(
    format_name: str, source: ModelFiles, target: ModelFiles, options: Options | None = None
) -> Equivalence:
    """Export a model to one format, and keep the files if they are equal to PyTorch.

    Where a file differs, none of the format's files stays under its final name, an earlier one
    neither, and the manifest on disk knows of none.

    Args:
        format_name: `onnx`, `torchscript` or `pt2`.
        source: the trained model.
        target: where files and manifest go.
        options: see there.

    Raises:
        ManifestError, CheckpointError: there is no such model, or it is corrupt.
        DefinitionError: its network's definition is missing, changed, or cannot work.
        HealthError: one of its inputs has no effect, or its weights are not finite.
        DataError: a lower precision without graded X-rays to judge it by.
        UsageError: an unsupported opset, a precision that the format does not have, or a folder
            that cannot be written.
    """
    options = options or Options()
    kinds = _kinds(format_name, options)
    record = manifest.load(source.manifest)
    pipeline, record = _defined(source, record, options.network)
    reference = reference_of(pipeline, record, options.data, kinds, options.said)
    xrays = torch.from_numpy(reference.samples.pixels)
    findings = health(pipeline, xrays, record)
    _refuse(findings, options.dead_input)
    cleaned, _ = clean_up(pipeline, xrays, options.dead_input is DeadInput.DROP)
    drafts = {kind: _draft(target.path(kind)) for kind in kinds}
    artifacts: dict[str, Artifact] = {}
    legs: dict[str, Leg] = {}
    try:
        for kind in kinds:
            write(kind, cleaned, record, drafts[kind], options.opset, reference.gate_samples)
        for kind in kinds:
            specs = specs_of(kind, cleaned)
            leg = compare_file(kind, drafts[kind], specs, reference, target.path(kind).name)
            if kind in LOWER and cleaned.scope and not leg.passed:
                # One that keeps the classes is of use though its novelty is too far off.
                plain = Pipeline(cleaned, cleaned.temperature)
                again, judged = specs_of(kind, plain), reference.gate_samples
                write(kind, plain, record, drafts[kind], options.opset, judged)
                name = target.path(kind).name
                other = compare_file(kind, drafts[kind], again, reference, name)
                specs, leg = (again, other) if other.passed else (specs, leg)
            opset = options.opset if format_name == "onnx" else 0
            artifacts[kind] = Artifact(leg.file, leg.sha256, format_name, opset, *specs)
            legs[kind] = leg
        former = _former(source, target, record)
        result = _with(former, artifacts, legs, reference.samples.counts())
        passed = all(leg.passed for leg in legs.values())
        if "pipeline" in kinds:
            drafts["golden"] = _draft(target.path("golden"))
            golden = save_golden(drafts["golden"], reference) if passed else None
            result = replace(result, golden=golden)
        with held_signals():
            _keep(result, drafts, target, passed)
            _keep_definition(source, target, options.network)
    finally:
        for draft in drafts.values():
            # Where the folder is a file, there is nothing to remove.
            with suppress(OSError):
                draft.unlink()
    return Equivalence(result, legs, reference.samples, tuple(findings))


def _defined(source: ModelFiles, record: Manifest, again: str | None) -> tuple[Pipeline, Manifest]:
    """Return the pipeline of a model, and its manifest with what its network is meant to be."""
    pipeline = load_pipeline(source, record, again)
    if again:
        definition = load(again)
        check(definition.network, len(record.labels.classes), config_of(record.network))
        known = definition.record(config_of(record.network))
        record = replace(record, network=replace(record.network, definition=known))
    return pipeline, record


def _keep_definition(source: ModelFiles, target: ModelFiles, again: str | None) -> None:
    path = source.path("definition")
    if again:
        write_bytes(target.path("definition"), load(again).content)
    elif path.is_file() and target.folder != source.folder:
        write_bytes(target.path("definition"), path.read_bytes())


def _refuse(findings: list[Finding], dead_input: DeadInput) -> None:
    for finding in findings:
        if finding.kind == "dead_input" and dead_input is DeadInput.REFUSE:
            raise HealthError(
                f"{finding.text}: train the model again, export it without its dead branch with "
                "--drop-dead, or as it is with --allow-dead-input"
            )
        if finding.kind == "not_finite":
            raise HealthError(f"{finding.text}: train the model again")


def _kinds(format_name: str, options: Options) -> tuple[str, ...]:
    kinds = KINDS.get((format_name, options.precision))
    if kinds is None:
        raise UsageError(f"{format_name} has no precision {options.precision}: onnx has it")
    if options.precision != "fp32" and options.data is None:
        raise DataError(
            f"{options.precision} is judged by graded X-rays, and there are none: give some "
            "with --data"
        )
    return kinds


def write(
    kind: str,
    pipeline: Pipeline,
    record: Manifest,
    path: Path,
    opset: int,
    gate_samples: GateSamples | None,
) -> None:
    """Write one kind of artifact, unproven.

    Raises:
        UsageError: an unsupported opset, or a folder that cannot be written.
    """
    if kind == "torchscript":
        export_torchscript(pipeline, record, path)
    elif kind == "pt2":
        export_pt2(pipeline, record, path)
    elif kind == "int8":
        assert gate_samples
        export_int8(pipeline, record, path, gate_samples.calibration, opset)
    else:
        export_onnx(kind, pipeline, record, path, opset)


def _former(source: ModelFiles, target: ModelFiles, record: Manifest) -> Manifest:
    """Return the manifest to add to: the target's, where it is of the same checkpoint.

    Raises:
        UsageError: the model itself has become another meanwhile.
    """
    with suppress(ManifestError):
        former = manifest.load(target.manifest)
        if former.training == record.training:
            return replace(former, network=record.network, operating_point=record.operating_point)
        if target.manifest == source.manifest:
            raise UsageError(f"{source.name} was trained anew meanwhile: export it again")
    # Other files of the source's are not in the target's folder.
    if target.manifest != source.manifest:
        return replace(record, export=None, equivalence=None, golden=None)
    return record


def _with(
    record: Manifest, artifacts: dict[str, Artifact], legs: dict[str, Leg], inputs: dict[str, int]
) -> Manifest:
    """Return the manifest with these artifacts and their legs beside those of other kinds.

    Other kinds that were proven under another manifest are left out.
    """
    if is_changed(record):
        record = replace(record, export=None, equivalence=None)
    other_artifacts = record.export.artifacts if record.export else {}
    other_legs = record.equivalence.legs if record.equivalence else {}
    return replace(
        record,
        export=ExportRecord(other_artifacts | artifacts, current_versions()),
        equivalence=equivalence_record(record, other_legs | legs, inputs),
    )


def _without(record: Manifest, kinds: Iterable[str]) -> Manifest:
    """Return the manifest without these artifacts and their legs."""
    assert record.export and record.equivalence
    artifacts = {k: v for k, v in record.export.artifacts.items() if k not in kinds}
    legs = {k: v for k, v in record.equivalence.legs.items() if k not in kinds}
    if not legs:
        return replace(record, export=None, equivalence=None)
    return replace(
        record,
        export=replace(record.export, artifacts=artifacts),
        equivalence=equivalence_record(record, legs, record.equivalence.inputs),
    )


def _keep(result: Manifest, drafts: dict[str, Path], target: ModelFiles, passed: bool) -> None:
    try:
        for kind, draft in drafts.items():
            if passed:
                draft.replace(link_target(target.path(kind)))
            else:
                target.path(kind).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {target.folder}: {error.strerror}") from error
    if passed:
        manifest.save(result, target.manifest)
    elif target.manifest.exists():
        manifest.save(_without(result, drafts), target.manifest)


def _draft(path: Path) -> Path:
    """Return where a file is written that is to take the place of `path`, or of what that leads to.

    Raises:
        UsageError: `path` leads to a write-protected file.
    """
    return link_target(path).with_name(f".{secrets.token_hex(4)}.{path.name}")

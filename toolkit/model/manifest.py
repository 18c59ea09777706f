"""The contract between the stages: what a model is, in `NAME.json`.

Each stage loads the manifest, replaces its own part, drops the parts of the stages after it,
and saves it. The service only reads it.
"""

import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from toolkit.errors import ManifestError, UsageError
from toolkit.files import write_bytes
from toolkit.model.equivalence import EquivalenceRecord, ExportRecord, GoldenRecord
from toolkit.model.files import SUFFIXES, names_in
from toolkit.model.records import (
    CalibrationRecord,
    DatasetRecord,
    NetworkRecord,
    OperatingPointRecord,
    PreprocessingConstants,
    ScopeRecord,
    TrainingRecord,
    TuningRecord,
)
from toolkit.xray.labels import LabelMap

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a model is.

    A part is None until its stage has run; `preprocessing` is None of another network than the
    study's, `dataset` of an imported model, whose X-rays
    are not known, `tuning` of a model whose recipe was not tuned, `calibration` and `scope` of one
    without validation X-rays, `operating_point` where none was asked for.

    Examples:
        >>> from pathlib import Path
        >>> from toolkit import load_manifest
        >>> model = load_manifest(Path("saved_models/model_saved.json"))
        >>> model.labels.classes
        ('none', 'minimal', 'moderate', 'severe')
        >>> model.equivalence.passed
        True
    """

    name: str
    labels: LabelMap
    preprocessing: PreprocessingConstants | None
    dataset: DatasetRecord | None
    network: NetworkRecord
    training: TrainingRecord
    export: ExportRecord | None = None
    equivalence: EquivalenceRecord | None = None
    tuning: TuningRecord | None = None
    calibration: CalibrationRecord | None = None
    scope: ScopeRecord | None = None
    golden: GoldenRecord | None = None
    operating_point: OperatingPointRecord | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def temperature(self) -> float:
        """What the logits are divided by before softmax: 1 of a model without calibration."""
        return self.calibration.temperature if self.calibration else 1.0


def load(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: missing, not JSON, of another schema, or with a part that does not fit.
    """
    try:
        content = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        there = ", ".join(names_in(path.parent)) or "none"
        raise ManifestError(
            f"no model here: {path} does not exist; models in {path.parent} are: {there}; "
            "--models, or a service's TOOLKIT_MODELS, names another folder, and `toolkit train` "
            "makes a model"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} cannot be read as a manifest: {error}") from error
    if not isinstance(content, dict):
        raise ManifestError(f"{path} cannot be read as a manifest: it is not a JSON object")
    schema = content.get("schema_version")
    if schema != SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema version {schema!r}, this toolkit reads {SCHEMA_VERSION}: "
            "use the toolkit that wrote it, or train and export again"
        )
    try:
        manifest = msgspec.convert(content, Manifest)
        problems = [
            *_unknown_parts(content, msgspec.to_builtins(manifest)),
            *_unknown_kinds(manifest),
            *_lacking(manifest),
            *_undecidable(manifest),
        ]
    except (msgspec.ValidationError, RecursionError) as error:
        problems = [str(error)]
    if problems:
        raise ManifestError(f"{path} is not a valid manifest: {problems[0]}")
    return manifest


def _unknown_parts(content: Any, known: Any, where: str = "$") -> Iterator[str]:
    """Say what a file holds beyond a manifest; msgspec passes over it in a dataclass."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name in known:
                yield from _unknown_parts(value, known[name], f"{where}.{name}")
            else:
                yield f"{name!r} is no part of `{where}`"
    elif isinstance(content, list):
        for index, (value, kept) in enumerate(zip(content, known, strict=True)):
            yield from _unknown_parts(value, kept, f"{where}[{index}]")


def _unknown_kinds(manifest: Manifest) -> list[str]:
    artifacts = manifest.export.artifacts if manifest.export else {}
    legs = manifest.equivalence.legs if manifest.equivalence else {}
    return [f"{kind!r} is no kind of file" for kind in {*artifacts, *legs} - {*SUFFIXES}]


def _lacking(manifest: Manifest) -> list[str]:
    """Say what the study's network must have, and others do not."""
    needed = {
        "preprocessing": manifest.preprocessing,
        "network.layer_size": manifest.network.layer_size,
        "network.dropout": manifest.network.dropout,
    }
    own = manifest.network.definition is not None
    return [
        f"null - at `$.{where}`" for where, value in needed.items() if value is None and not own
    ]


def _undecidable(manifest: Manifest) -> list[str]:
    """Say why an operating point is of no use to the classes."""
    point, classes = manifest.operating_point, manifest.labels.classes
    if point is None or (len(classes) == 2 and point.positive in classes):
        return []
    return [f"{point.positive!r} is not one of two classes - at `$.operating_point.positive`"]


def drop_unsaid(content: dict[str, Any]) -> None:
    """Remove from a manifest, as plain values, what former versions could not say, where unsaid."""
    labels = content["labels"]
    for each in fields(LabelMap):
        if each.default is not MISSING and labels[each.name] == each.default:
            del labels[each.name]
    for part, name in (
        (content["network"], "definition"),
        (content["training"], "distillation"),
        (content["training"], "weights"),
        (content, "operating_point"),
    ):
        if part[name] is None:
            del part[name]


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest, whole or not at all.

    Raises:
        UsageError: the folder cannot be written.
    """
    content = asdict(manifest)
    # Older manifests have neither.
    for name, usual in (("patient_pattern", None), ("patient_table", False)):
        if content["dataset"] and content["dataset"][name] == usual:
            del content["dataset"][name]
    drop_unsaid(content)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def save_over(manifest: Manifest, former: Manifest, path: Path) -> None:
    """Write a manifest in place of the one that it was made from.

    Raises:
        ManifestError: that one is gone, or cannot be read.
        UsageError: another is there by now, or the folder cannot be written.
    """
    if load(path) != former:
        raise UsageError(f"{path} was changed by another command meanwhile: run this one again")
    save(manifest, path)

"""Whether the files of a model are those that its manifest says were found equal to PyTorch."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ManifestError, ModelRefusedError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.files import LOWER, ModelFiles
from toolkit.xray.labels import KELLGREN_LAWRENCE

Arrays = Mapping[str, NDArray[Any]]
_OPTIONS = {kind: f" --precision {kind} --data DIR" for kind in LOWER}


def check_equivalence(files: ModelFiles, record: manifest.Manifest, kind: str = "pipeline") -> str:
    """Hold one of a model's files against the equivalence record and return its hash.

    Raises:
        ManifestError: the manifest is of a model with another name.
        ModelRefusedError: not exported, not found equal to PyTorch, the file or the manifest was
            changed since, or the file cannot be read.
    """
    path = files.path(kind)
    if record.name != files.name:
        raise ManifestError(
            f"{files.manifest} describes {record.name!r}, not {files.name!r}: restore its name"
        )
    mend = f"run `toolkit export onnx {files.name}{_OPTIONS.get(kind, '')}`"
    artifact = record.export.artifacts.get(kind) if record.export else None
    if artifact is None or not path.is_file():
        raise ModelRefusedError(f"{files.name} has no exported {kind} at {path}: {mend}")
    leg = record.equivalence.legs.get(kind) if record.equivalence else None
    if leg is None or record.equivalence is None:
        raise ModelRefusedError(f"{files.name} has no equivalence verdict: {mend}")
    if not (record.equivalence.passed and leg.passed):
        raise ModelRefusedError(f"{files.name} was found not equal to PyTorch: {mend}")
    try:
        digest = sha256(path)
    except OSError as error:
        raise ModelRefusedError(
            f"{path} cannot be read: {error.strerror}; see who may read it"
        ) from error
    if digest != artifact.sha256 or digest != leg.sha256 or leg.file != path.name:
        raise ModelRefusedError(
            f"{path} is not the file that was proven: its SHA-256 is {digest[:12]}..., the "
            f"manifest's {leg.sha256[:12]}...; {mend}"
        )
    if is_changed(record):
        raise ModelRefusedError(
            f"{files.manifest} is not as it was proven: its classes, figures or limits were "
            f"changed since; restore it, or {mend}"
        )
    return digest


def answers_sha256(record: manifest.Manifest) -> str:
    """Return the SHA-256 of all that a manifest says, but the names and hashes of files.

    Answers depend on what was said before the export, and /info tells of the verdict.
    """
    # Whole numbers that stand for floats, as they are once they are read.
    read = msgspec.convert(json.loads(json.dumps(asdict(record))), manifest.Manifest)
    content = asdict(read)
    for name in ("name", "schema_version", "export", "golden"):
        del content[name]
    manifest.drop_unsaid(content)
    if verdict := content["equivalence"]:
        del verdict["answers_sha256"]
        for leg in verdict["legs"].values():
            del leg["file"]
            # Former versions judged lower precisions without these.
            if leg["gate"] and not leg["gate"]["counts"]:
                del leg["gate"]["counts"], leg["gate"]["scope_agreement"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_changed(record: manifest.Manifest) -> bool:
    """Return whether a manifest says something else than when its files were proven."""
    proven = record.equivalence.answers_sha256 if record.equivalence else ""
    if not proven:
        # Former versions wrote neither: their graphs' own words are held against the manifest.
        return record.operating_point is not None
    return proven != answers_sha256(record)


def check_words(
    words: Mapping[str, str], files: ModelFiles, record: manifest.Manifest, kind: str
) -> None:
    """Hold what a graph says of itself against the manifest.

    Args:
        words: the graph's metadata; what it does not speak of is passed over.
        files: of the model.
        record: its manifest.
        kind: of the graph.

    Raises:
        ModelRefusedError: they say different things.
    """
    for name, value in graph_words(record).items():
        if words.get(name, value) != value:
            raise ModelRefusedError(
                f"{files.manifest} is not as it was proven: its {name} differs from that of "
                f"{files.path(kind)}; restore it, or run `toolkit export onnx {files.name}"
                f"{_OPTIONS.get(kind, '')}`"
            )


def check_outputs(
    names: Sequence[str], files: ModelFiles, record: manifest.Manifest, kind: str
) -> None:
    """Hold the names of a graph's outputs, in order, against the manifest.

    Raises:
        ModelRefusedError: the manifest has others.
    """
    assert record.export
    said = [each.name for each in record.export.artifacts[kind].outputs]
    if said != list(names):
        raise ModelRefusedError(
            f"{files.manifest} is not as it was proven: {files.path(kind)} has other outputs; "
            f"restore it, or run `toolkit export onnx {files.name}{_OPTIONS.get(kind, '')}`"
        )


def graph_words(record: manifest.Manifest) -> dict[str, str]:
    """Return what an exported file repeats of the manifest; values other than text are JSON."""
    constants = asdict(record.preprocessing) if record.preprocessing else {}
    labels = record.labels
    # Files of before there were others do not name it.
    other = labels.graded and labels.scale != KELLGREN_LAWRENCE
    scale = {"scale": labels.scale} if other else {}
    return {
        "classes": json.dumps(labels.classes),
        "grades": json.dumps(labels.scale_grades),
        **scale,
        **{name: json.dumps(value) for name, value in constants.items()},
        "temperature": json.dumps(record.temperature),
        "checkpoint_sha256": record.training.checkpoint_sha256,
    }


def load_golden(files: ModelFiles, record: manifest.Manifest) -> Arrays:
    """Return `xray`, uint8 (N, 224, 224), and PyTorch's outputs by name, (N, ...) each.

    Raises:
        ModelRefusedError: the model has none, or they are not the manifest's.
    """
    path, mend = files.path("golden"), f"run `toolkit export onnx {files.name}`"
    if record.golden is None or not path.is_file():
        raise ModelRefusedError(
            f"{files.name} has no golden X-rays at {path} to prove itself by: {mend}"
        )
    try:
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != record.golden.sha256:
            raise ModelRefusedError(
                f"{path} is not the manifest's: its SHA-256 is {found[:12]}..., the manifest's "
                f"{record.golden.sha256[:12]}...; {mend}"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelRefusedError(f"{path} cannot be read: {error}; {mend}") from error

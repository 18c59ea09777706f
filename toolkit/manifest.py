"""The contract between the stages: what a model is, in `NAME.json`.

Each stage loads the manifest, replaces its own part, drops the parts of the stages after it,
and saves it. The service only reads it.
"""

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from toolkit.errors import ManifestError
from toolkit.files import write_bytes
from toolkit.labels import LabelMap

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PreprocessingConstants:
    """The numbers of `toolkit.preprocessing`.

    Attributes:
        image_mean: per RGB channel, of the X-ray on 0..1 (ImageNet's).
        image_std: likewise.
        edge_threshold: grey levels; a smaller or equal edge is dropped.
        edge_mean: of the edge map, in grey levels 0..255.
        edge_std: likewise.
    """

    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    edge_threshold: int = 10
    edge_mean: float = 15.5
    edge_std: float = 20.5


@dataclass(frozen=True)
class DatasetRecord:
    """What the model was trained on.

    Attributes:
        source: `folder` or `generated`.
        split: `published`, `study` or `patient`.
        counts: X-rays per class, for each part.
        part_sha256: hash of the names and grades in each part.
        content_sha256: hash of all decoded X-rays with their names.
        skipped: files that could not be read.
        patients: how many there are.
        crossing_patients: how many have X-rays in more than one part.
    """

    source: str
    split: str
    counts: dict[str, tuple[int, ...]]
    part_sha256: dict[str, str]
    content_sha256: str
    skipped: int
    patients: int
    crossing_patients: int


@dataclass(frozen=True)
class NetworkRecord:
    """The shape of the network: layer size S, main dropout p, number of parameters."""

    layer_size: int
    dropout: float
    parameters: int


@dataclass(frozen=True)
class TrainingRecord:
    """How the weights came about, and how good they are.

    Attributes:
        checkpoint_sha256: of `NAME.pt`.
        recipe: every setting of the training, by name.
        device: `cpu`, or the name of the GPU.
        versions: of Python, toolkit, torch, numpy and pillow.
        metrics: for each part an evaluation as `toolkit.metrics` gives it.
    """

    checkpoint_sha256: str
    recipe: dict[str, Any]
    seed: int
    device: str
    epochs: int
    versions: dict[str, str]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a free dimension is named, as in ("batch", 224, 224)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Artifact:
    """One exported file, by name and hash."""

    file: str
    sha256: str
    format: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ExportRecord:
    """The exported files, by kind (`network`, `pipeline`), and what made them."""

    artifacts: dict[str, Artifact]
    versions: dict[str, str]


@dataclass(frozen=True)
class OutputDifference:
    """How far one output of an artifact is from PyTorch's, over all samples.

    Attributes:
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        allowed: the bound in words or a number.
        passed: whether every sample is within its bound.
    """

    output: str
    max_abs: float
    mean_abs: float
    allowed: str
    passed: bool


@dataclass(frozen=True)
class Leg:
    """One artifact compared with PyTorch eager.

    Attributes:
        sha256: of the file as it was compared.
        samples: how many X-rays went through, over all batches.
        argmax_agreement: share of X-rays with the same class, 0 to 1.
        provider: the ONNX Runtime execution provider that ran.
        failures: one line for each thing that differed.
    """

    file: str
    sha256: str
    samples: int
    batches: tuple[int, ...]
    provider: str
    argmax_agreement: float
    outputs: tuple[OutputDifference, ...]
    failures: tuple[str, ...]
    passed: bool


@dataclass(frozen=True)
class EquivalenceRecord:
    """The verdict over every artifact, and where it was reached."""

    passed: bool
    legs: dict[str, Leg]
    inputs: dict[str, int]
    versions: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """What a model is. A part is None until its stage has run."""

    name: str
    labels: LabelMap
    preprocessing: PreprocessingConstants
    dataset: DatasetRecord
    network: NetworkRecord
    training: TrainingRecord
    export: ExportRecord | None = None
    equivalence: EquivalenceRecord | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    def with_export(self, export: ExportRecord, equivalence: EquivalenceRecord) -> "Manifest":
        """Return the manifest with new exported files and the verdict over them."""
        return replace(self, export=export, equivalence=equivalence)


def load(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: missing, not JSON, of another schema, or with a part that does not fit.
    """
    try:
        content = json.loads(path.read_bytes(), parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise ManifestError(
            f"no model here: {path} does not exist; train one with `toolkit train`"
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
        manifest = _decoded(Manifest, content, "manifest")
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{path} is not a valid manifest: {error}") from error
    assert isinstance(manifest, Manifest)
    return manifest


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest, whole or not at all.

    Raises:
        UsageError: the folder cannot be written.
    """
    text = json.dumps(asdict(manifest), indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def _finite(text: str) -> float:
    """Return the number; what JSON has no word for is never written, so never read."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _decoded(kind: Any, value: Any, where: str) -> Any:
    """Return `value`, as JSON gives it, as an instance of the annotation `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _decoded_union(arguments, value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _decoded_dataclass(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{where} is not a list")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries, not {len(kinds)}")
        return tuple(_decoded(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"{where} is not an object")
        return {k: _decoded(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{where} is too large") from None
    if type(value) is not kind:
        raise TypeError(f"{where} is {type(value).__name__}, not {kind.__name__}")
    return value


def _decoded_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not NoneType]
    if len(rest) > 1:
        rest = [kind for kind in rest if type(value) is kind] or rest
    return _decoded(rest[0], value, where)


def _decoded_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{where} is not an object")
    hints = get_type_hints(kind)
    unknown = set(value) - {each.name for each in fields(kind)}
    if unknown:
        raise ValueError(f"{where} has unknown parts: {', '.join(sorted(unknown))}")
    return kind(**{k: _decoded(hints[k], v, f"{where}.{k}") for k, v in value.items()})

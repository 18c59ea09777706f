"""The parts of a manifest: what each stage says of a model."""

from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.xray.limits import SIZE, xray_shape


@dataclass(frozen=True)
class PreprocessingConstants:
    """The numbers of `toolkit.networks.preprocessing`.

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
        patient_pattern: the regular expression that told them apart, if one did.
        patient_table: whether a table did.
    """

    source: str
    split: str
    counts: dict[str, tuple[int, ...]]
    part_sha256: dict[str, str]
    content_sha256: str
    skipped: int
    patients: int
    crossing_patients: int
    patient_pattern: str | None = None
    patient_table: bool = False


@dataclass(frozen=True)
class DefinitionRecord:
    """Whose network it is, where that is not the study's.

    Attributes:
        source: `FILE.py:CLASS`, or `PACKAGE.MODULE:CLASS` of what is installed.
        sha256: of the file; a copy of it is NAME.network.py.
        config: what the network was made with, beside the number of classes.
        size: side of an X-ray, pixels.
        channels: 1, or 3 in colour.
    """

    source: str
    sha256: str
    config: dict[str, Any]
    size: int
    channels: int


@dataclass(frozen=True)
class NetworkRecord:
    """The shape of the network.

    Attributes:
        layer_size: S of the study's network; None of another.
        dropout: main dropout p of the study's network; None of another.
        parameters: how many there are.
        definition: of another network than the study's.
    """

    layer_size: int | None
    dropout: float | None
    parameters: int
    definition: DefinitionRecord | None = None

    @property
    def xray_shape(self) -> tuple[int, ...]:
        """The shape of one X-ray: (size, size), or (size, size, 3) in colour."""
        known = self.definition
        return xray_shape(known.size, known.channels) if known else xray_shape(SIZE, 1)


@dataclass(frozen=True)
class DistillationRecord:
    """What a model learned from, where that were other models' answers.

    Attributes:
        teachers: by name, the SHA-256 of each one's weights.
        views: how many of each X-ray they were asked about.
        unlabelled: how many X-rays without a class were among them.
        unlabelled_sha256: of their pixels.
        targets_sha256: of the probabilities that came of it.
    """

    teachers: dict[str, str]
    views: int
    unlabelled: int
    unlabelled_sha256: str
    targets_sha256: str


@dataclass(frozen=True)
class WeightsRecord:
    """What a training began with, where that were weights of a file.

    Attributes:
        file: its name.
        sha256: of it.
        new: the names of the network's weights that are not in it, or there of another shape.
    """

    file: str
    sha256: str
    new: tuple[str, ...]


@dataclass(frozen=True)
class TrainingRecord:
    """How the weights came about, and how good they are.

    Attributes:
        checkpoint_sha256: of `NAME.pt`.
        recipe: every setting of the training, by name; of an imported model `preset` is
            `imported`, and the file's name and SHA-256 and the notices are there.
        seed: None where it is not known: an imported model.
        device: `cpu`, or the name of the GPU; `unknown` of an imported model.
        epochs: None where they are not known.
        versions: of Python, toolkit, torch, numpy and pillow, where it was trained or imported.
        metrics: for each part an evaluation as `toolkit.model.metrics` gives it; none of an
            imported model.
        permutation: for each input, `image` and `edges`, the accuracy on the validation part
            that is lost when every X-ray gets another one's, -1 to 1; none without that part.
        distillation: None where it learned from labels.
        weights: None where it began with those that the network is made with.
    """

    checkpoint_sha256: str
    recipe: dict[str, Any]
    seed: int | None
    device: str
    epochs: int | None
    versions: dict[str, str]
    metrics: dict[str, Any]
    permutation: dict[str, float] = field(default_factory=dict)
    distillation: DistillationRecord | None = None
    weights: WeightsRecord | None = None


@dataclass(frozen=True)
class TuningRecord:
    """The study that the recipe came from.

    Attributes:
        study: its name.
        preset: of its trials.
        seed: of the study.
        trials: numbers of those whose parameters were averaged, best first.
        scores: theirs.
        parameters: the averages; of a network that is not the study's, the best trial's.
    """

    study: str
    preset: str
    seed: int
    trials: tuple[int, ...]
    scores: tuple[float, ...]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class CalibrationRecord:
    """What the probabilities are scaled by, and when they are too small to go by.

    Attributes:
        part: of the data set that it was fitted on.
        n: X-rays in it.
        temperature: T of softmax(logits / T), above 0.
        error_before: expected calibration error with T = 1, 0 to 1.
        error_after: with the fitted T.
        abstain_below: largest probability below which the model abstains, 0 to 1.
        abstained: share of the X-rays that it abstains on.
        wrong_among_kept: share of wrong ones among the others.
    """

    part: str
    n: int
    temperature: float
    error_before: float
    error_after: float
    abstain_below: float
    abstained: float
    wrong_among_kept: float


@dataclass(frozen=True)
class OperatingPointRecord:
    """From which probability on a model of two classes decides on the one that is sought.

    Attributes:
        part: of the data set that it was chosen on.
        positive: label of the class that is sought.
        figure: that was asked for: `sensitivity` or `specificity`.
        target: what it was to be at least, above 0 to 1.
        threshold: smallest probability of that class, as it is answered, that it is decided on,
            0 to 1.
        sensitivity: reached on that part, 0 to 1.
        specificity: likewise.
        positives: X-rays of that class there.
        negatives: X-rays of the other one.
    """

    part: str
    positive: str
    figure: Literal["sensitivity", "specificity"]
    target: float
    threshold: float
    sensitivity: float
    specificity: float
    positives: int
    negatives: int

    def description(self) -> str:
        """Return it in words, with what it reached and on how many X-rays."""
        return (
            f"decides on {self.positive!r} from a probability of {self.threshold:.4g} on: "
            f"sensitivity {self.sensitivity:.1%} of {self.positives} X-rays, specificity "
            f"{self.specificity:.1%} of {self.negatives} ({self.part})"
        )


@dataclass(frozen=True)
class ScopeRecord:
    """How unlike the training X-rays a picture may be.

    Attributes:
        sha256: of NAME.scope.pt.
        part: of the data set that the limit was set on.
        n: X-rays in it.
        limit: largest novelty of an X-ray that is in scope, 0 or more.
        within: share of the X-rays of that part within the limit, 0 to 1.
    """

    sha256: str
    part: str
    n: int
    limit: float
    within: float

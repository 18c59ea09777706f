"""What is said of an X-ray and of the model that says it: every answer is declared here, once.

The service's JSON and its schemas, the client's types and the columns of a batch run come from
these types. A field that a model cannot give is None, and is left out of the JSON.
"""

from functools import cached_property
from typing import Annotated

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType, field
from numpy.typing import NDArray

from toolkit.model import manifest
from toolkit.xray.labels import KELLGREN_LAWRENCE

Index = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Picture = Annotated[
    str,
    Meta(extra_json_schema={"contentEncoding": "base64", "contentMediaType": "image/png"}),
]
_GRADE = Meta(description="On the scale of the model's grades.")
_ABSTAIN = Meta(description="Whether the largest probability is too small to go by.")
_SCOPE = Meta(description="Whether it looks like the X-rays that the model knows.")
_DECISION = Meta(description="The class that the operating point decides on.")
_PROVIDER = Meta(description="What of ONNX Runtime ran it.")


class Answer(Struct, frozen=True, omit_defaults=True):
    """What is said of one X-ray.

    Attributes:
        class_index: the class decided on, 0 or more; `class` in JSON.
        label: of that class.
        probabilities: of each class, 0 to 1.
        expected_grade: the mean over the classes of their mean grade, on the scale that these are
            of; None where classes are no grades in order.
        abstain: whether the largest probability is too small to go by; None without calibration.
        in_scope: whether it looks like the X-rays that the model knows; None where not known.
        decision: label of the class that the operating point decides on, which need not be the
            most probable one; None of a model without.
    """

    class_index: Index = field(name="class")
    label: str
    probabilities: tuple[Share, ...]
    expected_grade: Annotated[float | None, _GRADE] = None
    abstain: Annotated[bool | None, _ABSTAIN] = None
    in_scope: Annotated[bool | None, _SCOPE] = None
    decision: Annotated[str | None, _DECISION] = None


class Prediction(Answer, frozen=True, omit_defaults=True, kw_only=True):
    """What a service says of one X-ray.

    Attributes:
        model: the model's name.
        model_sha256: of the pipeline file that is served.
        provider: the execution provider that runs it.
    """

    model: str
    model_sha256: Sha256
    provider: Annotated[str, _PROVIDER]


class Problem(Struct, frozen=True):
    """Why a request or a file is refused (RFC 9457), with a stable `code`."""

    title: str
    status: int
    code: str
    detail: str


class ProtocolProblem(Problem, frozen=True, kw_only=True):
    """A problem with the member that the Open Inference Protocol asks for."""

    error: str


class Result(Struct, frozen=True, omit_defaults=True):
    """What came of one file of several: the one or the other."""

    prediction: Answer | None = None
    problem: Problem | None = None


class Batch(Struct, frozen=True):
    """What a service says of several files, one result for each, in order."""

    model: str
    model_sha256: Sha256
    provider: Annotated[str, _PROVIDER]
    results: tuple[Result, ...]


class Explanation(Struct, frozen=True, omit_defaults=True):
    """What a decision went by; pictures are PNG files in base64.

    Attributes:
        heat: X-ray and views, coloured.
        views: what else the network is made to see of the X-ray, by name.
        edge_map: the view of that name, of a network that has one.
    """

    class_index: Index = field(name="class")
    label: str
    heat: Annotated[Picture, Meta(description="Red speaks for the class, blue against it.")]
    views: dict[str, Picture]
    edge_map: Annotated[Picture | None, Meta(description="The view of that name.")] = None


class Served(Struct, frozen=True):
    """Which model a service serves."""

    model: str
    model_sha256: str
    classes: tuple[str, ...]


class Equivalence(Struct, frozen=True):
    """How the file that is served compares with PyTorch."""

    passed: bool
    samples: int
    max_abs: dict[str, float]


class Providers(Struct, frozen=True):
    """The execution provider that was asked for, and the one that runs the model."""

    requested: str
    active: str | None


class OperatingPoint(Struct, frozen=True):
    """From which probability on a model of two classes decides on the one that is sought.

    Attributes:
        positive: label of the class that is sought.
        threshold: smallest of its answered probabilities that it is decided on.
        sensitivity: reached on the validation part.
        specificity: likewise.
    """

    positive: str
    threshold: Share
    sensitivity: Share
    specificity: Share


class Info(Served, frozen=True, kw_only=True):
    """All that a service says of its model.

    Attributes:
        grades: of each class, those that it stands for; none where they are no grades in order.
        scale: what the grades are of; empty without any.
        views: the names of what the network is made to see of an X-ray besides.
        reason: why the model does not answer; None when it does.
        operating_point: what `decision` goes by; left out of a model without.
    """

    checkpoint_sha256: str
    grades: tuple[tuple[int | float, ...], ...]
    scale: str
    views: tuple[str, ...]
    equivalence: Equivalence
    provider: Providers
    precision: str
    ready: bool
    reason: str | None
    versions: dict[str, str]
    operating_point: OperatingPoint | UnsetType = UNSET


class Meaning(Struct, frozen=True, dict=True):
    """What a model's probabilities mean.

    Attributes:
        classes: the label of each class.
        grades: of each class, those that it stands for; empty where they are no grades in order.
        abstain_below: largest probability below which the model abstains; None without
            calibration.
        novelty_limit: largest novelty of an X-ray that is in scope; None where it is not known.
        scale: what the grades are of.
        operating_point: from which probability on one of two classes is decided on; None without.
    """

    classes: tuple[str, ...]
    grades: tuple[tuple[int | float, ...], ...] = ()
    abstain_below: float | None = None
    novelty_limit: float | None = None
    scale: str = KELLGREN_LAWRENCE
    operating_point: OperatingPoint | None = None

    @cached_property
    def _mean_grades(self) -> NDArray[np.float64]:
        return np.array([np.mean(grades) for grades in self.grades])

    def answer(self, probabilities: NDArray[np.floating], novelty: float | None = None) -> Answer:
        """Return what is said of one X-ray.

        Args:
            probabilities: calibrated ones, (C,); float32 where a file is served.
            novelty: how unlike the training X-rays it is, 0 or more; None where it is not known.
        """
        index = int(probabilities.argmax())
        grade = abstain = in_scope = decision = None
        if self.grades:
            grade = float(probabilities.astype(np.float64) @ self._mean_grades)
        if self.abstain_below is not None:
            abstain = bool(probabilities.max() < self.abstain_below)
        if self.novelty_limit is not None and novelty is not None:
            in_scope = bool(novelty <= self.novelty_limit)
        shares = tuple(probabilities.tolist())
        if self.operating_point:
            decision = self._decided(shares)
        return Answer(index, self.classes[index], shares, grade, abstain, in_scope, decision)

    def _decided(self, shares: tuple[float, ...]) -> str:
        assert self.operating_point
        positive, threshold = self.operating_point.positive, self.operating_point.threshold
        sought = self.classes.index(positive)
        return positive if shares[sought] >= threshold else self.classes[1 - sought]


def meaning_of(record: manifest.Manifest) -> Meaning:
    """Return what the probabilities of a manifest's model mean."""
    abstain_below = record.calibration.abstain_below if record.calibration else None
    limit = record.scope.limit if record.scope else None
    labels, point = record.labels, None
    if known := record.operating_point:
        point = OperatingPoint(
            known.positive, known.threshold, known.sensitivity, known.specificity
        )
    return Meaning(labels.classes, labels.scale_grades, abstain_below, limit, labels.scale, point)

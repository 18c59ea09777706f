"""What was exported and how it compares with PyTorch: the manifest's part of the export stage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network or graph; a free dimension is named, as in ("batch", 224).

    Examples:
        >>> from toolkit import TensorSpec
        >>> spec = TensorSpec("grey", "float32", ("batch", 1, 32, 32))
        >>> spec.shape
        ('batch', 1, 32, 32)
    """

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
    """How far one output of an artifact is from PyTorch's, over all samples and settings.

    Attributes:
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference, of the worst setting, as is the next.
        p99_abs: 99th percentile of the absolute difference.
        max_ulp: largest distance in representable float32 numbers; of integers, in units.
        allowed: the bound in words.
        histogram: counts below 1e-9, between each two powers of ten, and above 0.1.
        passed: whether every sample is within its bound.
    """

    output: str
    max_abs: float
    mean_abs: float
    p99_abs: float
    max_ulp: float
    allowed: str
    histogram: tuple[int, ...]
    passed: bool


@dataclass(frozen=True)
class Flip:
    """One X-ray that an artifact puts in another class than PyTorch does.

    Attributes:
        sample: its number.
        kind: what it is, such as `real` or `noise`.
        setting: how it was run.
        margin: between the two largest of PyTorch's logits.
        error: the largest difference of its logits; -1 for one that is not finite.
        tie: whether that error explains the flip: the margin is at most twice the error.
    """

    sample: int
    kind: str
    setting: str
    margin: float
    error: float
    tie: bool


@dataclass(frozen=True)
class Gate:
    """How what a file of lower precision says of graded X-rays compares with PyTorch's.

    Attributes:
        samples: graded X-rays.
        agreement: share of them with the same class, 0 to 1.
        kappa_points: quadratic weighted kappa less PyTorch's, times 100; None if undefined.
        recall_points: of each class, recall less PyTorch's, times 100; None without any X-ray.
        failures: one line for each thing that is out of bounds.
        counts: of the X-rays of each class; empty in records of former versions.
        scope_agreement: share of them with the same `in_scope`, 0 to 1; None of a file without
            novelty.
    """

    samples: int
    agreement: float
    kappa_points: float | None
    recall_points: tuple[float | None, ...]
    failures: tuple[str, ...]
    counts: tuple[int, ...] = ()
    scope_agreement: float | None = None

    @property
    def one_xray_points(self) -> tuple[float | None, ...]:
        """What one X-ray of each class is of its recall, in points; None without any."""
        return tuple(100 / count if count else None for count in self.counts)


@dataclass(frozen=True)
class Leg:
    """One artifact compared with PyTorch eager.

    Attributes:
        sha256: of the file as it was compared.
        samples: how many X-rays went through, in each setting.
        batches: the sizes of batches that they were run in.
        settings: every way they were run: batch sizes, shuffled, without optimisations.
        provider: what ran it: the ONNX Runtime execution provider, or PyTorch.
        argmax_agreement: share of X-rays with the same class, 0 to 1, in the worst setting.
        batch_invariance: how far an X-ray's logits are from its own in other batches; -1 where
            that is not finite.
        flips: every X-ray put in another class.
        failures: one line for each thing that differed.
        gate: what a file of lower precision is judged by; None of others.
    """

    file: str
    sha256: str
    samples: int
    batches: tuple[int, ...]
    settings: tuple[str, ...]
    provider: str
    argmax_agreement: float
    batch_invariance: float
    outputs: tuple[OutputDifference, ...]
    flips: tuple[Flip, ...]
    failures: tuple[str, ...]
    passed: bool
    gate: Gate | None = None


@dataclass(frozen=True)
class EquivalenceRecord:
    """Whether every artifact is equal to PyTorch, how each was compared, and on what.

    Attributes:
        answers_sha256: of all that the manifest says, but for names and hashes of files; empty
            in records of former versions.
    """

    passed: bool
    legs: dict[str, Leg]
    inputs: dict[str, int]
    versions: dict[str, str]
    answers_sha256: str = ""


@dataclass(frozen=True)
class GoldenRecord:
    """The X-rays that a service proves itself by as it starts.

    Attributes:
        sha256: of NAME.golden.npz.
        samples: X-rays in it.
    """

    sha256: str
    samples: int

"""Runs X-rays in every setting and measures how far each output is from PyTorch's."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.compare.samples import Samples
from export.convert.onnx import Specs
from toolkit.model.artifacts import Arrays
from toolkit.model.equivalence import Flip, Leg, OutputDifference, TensorSpec
from toolkit.model.tolerance import Bound, bound_of, within

BATCHES = (1, 2, 7, 64)
HISTOGRAM_EDGES = tuple(10.0**power for power in range(-9, 0))
_MOST_FAILURES = 5

Runner = Callable[[Arrays], Arrays]
"""From inputs to outputs, by name, (N, ...) each."""


@dataclass(frozen=True)
class Setting:
    """One way to run all samples: in batches of some size, in order or shuffled."""

    run: Runner
    batch: int
    shuffled: bool = False


@dataclass(frozen=True)
class Origin:
    """What is compared: its file or address, its hash, and what runs it."""

    file: str
    sha256: str
    provider: str


class Measurement:
    """Differences of one output, gathered over all settings that it was run in."""

    def __init__(self, spec: TensorSpec, samples: Samples, bound: Bound) -> None:
        self.spec = spec
        self.samples = samples
        self.bound = bound
        self.lines: list[str] = []
        self.flips: list[Flip] = []
        # Of each setting: max, mean, 99th percentile, ULP.
        self._figures: list[list[float]] = []
        self._agreement: list[float] = []
        self._histogram = np.zeros(len(HISTOGRAM_EDGES) + 1, dtype=np.int64)

    @np.errstate(invalid="ignore")
    def add(self, actual: NDArray[Any], reference: NDArray[Any], setting: str) -> None:
        """Compare (N, ...) with its reference; `setting` says how it was run."""
        where = f"{self.spec.name} {setting}"
        if actual.shape != reference.shape or actual.dtype != reference.dtype:
            self.lines.append(
                f"{where}: {actual.dtype} {actual.shape}, expected "
                f"{reference.dtype} {reference.shape}"
            )
            return
        difference = np.abs(actual.astype(np.float64) - reference.astype(np.float64))
        by_sample = difference.reshape(len(difference), -1).max(axis=1)
        passes = within(by_sample, self.bound.allowed(reference, self.samples.natural))
        p99, ulp = float(np.percentile(difference, 99)), _max_ulp(actual, reference)
        self._figures.append([float(by_sample.max()), float(difference.mean()), p99, ulp])
        self._histogram += _histogram(difference)
        if actual.ndim == 2:
            self._agreement.append(float((actual.argmax(1) == reference.argmax(1)).mean()))
            self.flips += _flips(actual, reference, by_sample, self.samples, setting)
        if not passes.all():
            self.lines.append(self._failure(where, by_sample, passes))

    def difference(self) -> OutputDifference:
        """Return the figures of the worst settings, not finite ones as -1, which JSON can hold."""
        figures = np.array(self._figures or [[np.nan] * 4]).max(axis=0)
        finite = bool(np.isfinite(figures).all())
        max_abs, mean_abs, p99_abs, max_ulp = figures.tolist() if finite else [-1.0] * 4
        return OutputDifference(
            output=self.spec.name,
            max_abs=max_abs,
            mean_abs=mean_abs,
            p99_abs=p99_abs,
            max_ulp=max_ulp,
            allowed=self.bound.text,
            histogram=tuple(self._histogram.tolist()),
            passed=finite and not self.lines,
        )

    def failures(self) -> list[str]:
        """Return a line for each of the first settings that differed."""
        return self.lines[:_MOST_FAILURES]

    def argmax_agreement(self) -> float:
        """Return the smallest share of X-rays with the same class over the settings."""
        return min(self._agreement, default=0.0)

    def _failure(
        self, where: str, by_sample: NDArray[np.float64], passes: NDArray[np.bool_]
    ) -> str:
        failed = np.flatnonzero(~passes)
        worst = failed[np.nan_to_num(by_sample[failed], nan=np.inf).argmax()]
        return (
            f"{where}: {len(failed)} of {len(passes)} X-rays differ, most of all number {worst} "
            f"({self.samples.kinds[worst]}) by {by_sample[worst]:.3g}; allowed {self.bound.text}"
        )


def settings(run: Runner) -> dict[str, Setting]:
    """Return the settings of every leg: batches of 1, 2, 7 and 64, and a shuffled one."""
    batches = {f"in batches of {batch}": Setting(run, batch) for batch in BATCHES}
    return batches | {"in shuffled batches of 7": Setting(run, 7, shuffled=True)}


def compare(
    tried: Mapping[str, Setting],
    specs: Specs,
    reference: Arrays,
    samples: Samples,
    origin: Origin,
    failures: tuple[str, ...] = (),
    bounds: Mapping[str, Bound] | None = None,
) -> Leg:
    """Run every sample in every setting and say whether all are within their bounds.

    Args:
        tried: the settings, by how a report calls them.
        specs: inputs and outputs.
        reference: every input and output by name, (N, ...).
        samples: where the inputs came from.
        origin: what is compared.
        failures: of names, dtypes and shapes; with any, nothing is run.
        bounds: how far each output may be from PyTorch's, unless as usual.
    """
    _, outputs = specs
    first = outputs[0].name
    bounds = bounds or {spec.name: bound_of(spec.name) for spec in outputs}
    measured = {spec.name: Measurement(spec, samples, bounds[spec.name]) for spec in outputs}
    logits: list[NDArray[Any]] = []
    usual = next(iter(tried.values())).run
    for name, setting in {} if failures else tried.items():
        actual = _run(setting, specs, reference)
        for output, measurement in measured.items():
            measurement.add(actual[output], reference[output], name)
        # Another run, as one without optimisations, differs by more than its batches.
        if setting.run is usual:
            logits.append(actual[first])
    ran = [] if failures else list(measured.values())
    differences = tuple(measurement.difference() for measurement in ran)
    lines = (*failures, *(line for measurement in ran for line in measurement.failures()))
    return Leg(
        file=origin.file,
        sha256=origin.sha256,
        samples=len(samples.kinds),
        batches=tuple(sorted({each.batch for each in tried.values()})),
        settings=tuple(tried),
        provider=origin.provider,
        argmax_agreement=measured[first].argmax_agreement(),
        batch_invariance=_spread(logits),
        outputs=differences,
        flips=tuple(measured[first].flips),
        failures=lines,
        passed=not lines and all(difference.passed for difference in differences),
    )


def _run(setting: Setting, specs: Specs, reference: Arrays) -> Arrays:
    """Return every output for every sample, (N, ...), in the samples' own order."""
    inputs, outputs = specs
    count = len(reference[outputs[0].name])
    order = np.random.default_rng(0).permutation(count) if setting.shuffled else np.arange(count)

    def steps() -> Iterator[Arrays]:
        for start in range(0, count, setting.batch):
            chosen = order[start : start + setting.batch]
            yield setting.run({spec.name: reference[spec.name][chosen] for spec in inputs})

    values = concatenate(steps())
    back = np.argsort(order)
    return {name: found[back] if len(found) == count else found for name, found in values.items()}


def concatenate(steps: Iterator[Arrays]) -> dict[str, NDArray[Any]]:
    """Return the arrays of several batches as one for each name."""
    gathered: dict[str, list[NDArray[Any]]] = {}
    for step in steps:
        for name, values in step.items():
            gathered.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in gathered.items()}


@np.errstate(invalid="ignore")
def _spread(values: list[NDArray[Any]]) -> float:
    """Return how far the same X-ray is from itself alone, within other batches; -1 for NaN."""
    if len({logits.shape for logits in values}) != 1:
        return -1.0
    spread = float(max(np.abs(logits - values[0]).max() for logits in values))
    return spread if np.isfinite(spread) else -1.0


def _max_ulp(actual: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the largest distance in representable numbers; of integers, the plain one."""
    if actual.dtype != np.float32:
        return float(np.abs(actual.astype(np.int64) - reference.astype(np.int64)).max())
    places = []
    for values in (actual, reference):
        bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
        # Negative floats count down from -0: mirrored, the numbers are in order.
        places.append(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))
    return float(np.abs(places[0] - places[1]).max())


def _histogram(difference: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the differences between the `HISTOGRAM_EDGES`; a NaN counts as the largest."""
    known = np.nan_to_num(difference.ravel(), nan=np.inf, posinf=np.inf)
    bins = np.searchsorted(HISTOGRAM_EDGES, known, side="right")
    counts: NDArray[np.int64] = np.bincount(bins, minlength=len(HISTOGRAM_EDGES) + 1)
    return counts


def _flips(
    actual: NDArray[Any],
    reference: NDArray[Any],
    by_sample: NDArray[np.float64],
    samples: Samples,
    setting: str,
) -> list[Flip]:
    flipped = np.flatnonzero(actual.argmax(1) != reference.argmax(1))
    ordered = np.sort(reference[flipped].astype(np.float64), axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    return [
        Flip(
            sample=int(index),
            kind=samples.kinds[index],
            setting=setting,
            margin=float(margin),
            error=float(np.nan_to_num(by_sample[index], nan=-1.0, posinf=-1.0)),
            # Both of the top two may have moved by the error, towards each other.
            tie=bool(margin <= 2 * by_sample[index]),
        )
        for index, margin in zip(flipped, margins, strict=True)
    ]

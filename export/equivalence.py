"""Compares exported graphs with PyTorch eager, and reaches a verdict that can be kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bento.session import open_session
from export.pipeline import Pipeline
from export.samples import Samples
from toolkit.files import sha256
from toolkit.manifest import Leg, OutputDifference, TensorSpec

BATCHES = (1, 2, 7, 64)
LOGIT_TOLERANCE = 1e-5
PROBABILITY_TOLERANCE = 1e-5
_SHOWN = 5

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Bound:
    """How far an output may be from PyTorch's, for each sample.

    Attributes:
        text: the bound in words.
        allowed: from the reference (N, ...) and which samples are X-rays (N,), the largest
            absolute difference of each sample: float64 (N,).
    """

    text: str
    allowed: Callable[[NDArray[Any], NDArray[np.bool_]], NDArray[np.float64]]


def _logit_bound(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del natural
    largest = np.abs(reference.astype(np.float64)).reshape(len(reference), -1).max(axis=1)
    bound: NDArray[np.float64] = LOGIT_TOLERANCE * np.maximum(1.0, largest)
    return bound


def _probability_bound(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del reference
    return np.where(natural, PROBABILITY_TOLERANCE, np.inf)


def _identical(reference: NDArray[Any], natural: NDArray[np.bool_]) -> NDArray[np.float64]:
    del natural
    return np.zeros(len(reference))


BOUNDS = {
    "logits": Bound("1e-5 * max(1, max |logit| of that X-ray)", _logit_bound),
    "probabilities": Bound("1e-5 on real and generated X-rays", _probability_bound),
    "edge_map": Bound("identical", _identical),
}


@torch.no_grad()
def references(pipeline: Pipeline, samples: Samples) -> dict[str, NDArray[Any]]:
    """Run PyTorch eager over all samples, in batches of 64, on the CPU.

    Returns:
        `xray`, `image`, `edges` (the graphs' inputs) and `logits`, `probabilities`, `edge_map`.
    """
    gathered: dict[str, list[NDArray[Any]]] = {}
    for xray in torch.split(torch.from_numpy(samples.pixels), 64):
        image, edges = pipeline.preprocessing(xray)
        logits, probabilities, edge_map = pipeline(xray)
        step = {
            "xray": xray,
            "image": image,
            "edges": edges,
            "logits": logits,
            "probabilities": probabilities,
            "edge_map": edge_map,
        }
        for name, value in step.items():
            gathered.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(values) for name, values in gathered.items()}


def compare_onnx(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    reference: Arrays,
    samples: Samples,
    file_name: str | None = None,
) -> Leg:
    """Compare an ONNX file with PyTorch's outputs, in batches of 1, 2, 7 and 64.

    Names, dtypes and shapes come before values; a graph that differs there is not run.

    Args:
        path: the file.
        inputs: what it must take.
        outputs: what it must give.
        reference: every input and output by name, (N, ...), as `references` gives them.
        samples: where the inputs came from.
        file_name: the name to record, where the file does not have its final one yet.

    Raises:
        ModelRefusedError: ONNX Runtime cannot open the file.
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = open_session(path, "cpu")
    failures = _spec_failures(session, inputs, outputs)
    measured: dict[str, _Measured] = {}
    if not failures:
        for batch in BATCHES:
            actual = _run(session, inputs, outputs, reference, batch)
            for spec in outputs:
                tally = measured.setdefault(spec.name, _Measured(spec, samples))
                tally.add(actual[spec.name], reference[spec.name], batch)
    differences = tuple(each.difference() for each in measured.values())
    failures += [line for each in measured.values() for line in each.failures()]
    return Leg(
        file=file_name or path.name,
        sha256=sha256(path),
        samples=len(samples.kinds),
        batches=BATCHES,
        provider=session.get_providers()[0],
        argmax_agreement=measured["logits"].argmax_agreement() if measured else 0.0,
        outputs=differences,
        failures=tuple(failures),
        passed=not failures and all(each.passed for each in differences),
    )


def _spec_failures(
    session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> list[str]:
    failures = []
    for kind, expected, found in (
        ("inputs", inputs, session.get_inputs()),
        ("outputs", outputs, session.get_outputs()),
    ):
        actual = tuple(_spec(each) for each in found)
        if actual != expected:
            failures.append(f"{kind} are {_listed(actual)}, expected {_listed(expected)}")
    return failures


def _spec(value: Any) -> TensorSpec:
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(value.type, value.type)
    return TensorSpec(value.name, dtype, tuple(value.shape))


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in specs)


def _run(
    session: Any,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    reference: Arrays,
    batch: int,
) -> dict[str, NDArray[Any]]:
    names = [each.name for each in outputs]
    gathered: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for start in range(0, len(reference[names[0]]), batch):
        feed = {each.name: reference[each.name][start : start + batch] for each in inputs}
        for name, value in zip(names, session.run(names, feed), strict=True):
            gathered[name].append(value)
    return {name: np.concatenate(values) for name, values in gathered.items()}


class _Measured:
    """Differences of one output, gathered over all batch sizes."""

    def __init__(self, spec: TensorSpec, samples: Samples) -> None:
        self.spec = spec
        self.samples = samples
        self.bound = BOUNDS[spec.name]
        self.max_abs: list[float] = []
        self.mean_abs: list[float] = []
        self.agreement: list[float] = []
        self.lines: list[str] = []

    def add(self, actual: NDArray[Any], reference: NDArray[Any], batch: int) -> None:
        """Compare (N, ...) with its reference."""
        where = f"{self.spec.name} in batches of {batch}"
        if actual.shape != reference.shape or actual.dtype != reference.dtype:
            self.lines.append(
                f"{where}: {actual.dtype} {actual.shape}, expected "
                f"{reference.dtype} {reference.shape}"
            )
            return
        # Infinity less infinity is NaN, which is found below, and not worth a warning.
        with np.errstate(invalid="ignore"):
            difference = np.abs(actual.astype(np.float64) - reference.astype(np.float64))
        by_sample = difference.reshape(len(difference), -1).max(axis=1)
        # A NaN compares as False, so what passes is asked for, not what fails.
        passes = by_sample <= self.bound.allowed(reference, self.samples.natural)
        passes &= np.isfinite(by_sample)
        self.max_abs.append(float(by_sample.max()))
        self.mean_abs.append(float(difference.mean()))
        if actual.ndim == 2:
            self.agreement.append(float((actual.argmax(1) == reference.argmax(1)).mean()))
        if not passes.all():
            self.lines.append(self._failure(where, by_sample, passes))

    def difference(self) -> OutputDifference:
        """Return the figures, not finite ones as -1, which JSON can hold."""
        finite = bool(self.max_abs) and bool(np.isfinite(self.max_abs).all())
        return OutputDifference(
            output=self.spec.name,
            max_abs=max(self.max_abs) if finite else -1.0,
            mean_abs=max(self.mean_abs) if finite else -1.0,
            allowed=self.bound.text,
            passed=finite and not self.lines,
        )

    def failures(self) -> list[str]:
        """Return a line for each batch size that differed."""
        return self.lines[:_SHOWN]

    def argmax_agreement(self) -> float:
        """Return the smallest share of X-rays with the same class over the batch sizes."""
        return min(self.agreement, default=0.0)

    def _failure(
        self, where: str, by_sample: NDArray[np.float64], passes: NDArray[np.bool_]
    ) -> str:
        failed = np.flatnonzero(~passes)
        worst = failed[np.nan_to_num(by_sample[failed], nan=np.inf).argmax()]
        return (
            f"{where}: {len(failed)} of {len(passes)} X-rays differ, most of all number {worst} "
            f"({self.samples.kinds[worst]}) by {by_sample[worst]:.3g}; allowed {self.bound.text}"
        )

"""Compares exported graphs with PyTorch eager, and reaches a verdict that can be kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.compare.measurement import Measurement
from export.compare.samples import Samples
from export.convert.pipeline import Pipeline
from toolkit.files import sha256
from toolkit.model.equivalence import Leg, TensorSpec
from toolkit.model.tolerance import BOUNDS, Bound
from toolkit.runtime.session import open_session

BATCHES = (1, 2, 7, 64)

Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[Arrays], Arrays]


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


@torch.no_grad()
def references(pipeline: Pipeline, samples: Samples) -> dict[str, NDArray[Any]]:
    """Run PyTorch eager over all samples, in batches of 64, on the CPU.

    Returns:
        `xray`, `image`, `edges` (the graphs' inputs) and `logits`, `probabilities`, `edge_map`
        and, with a scope, `novelty`.
    """
    gathered: dict[str, list[NDArray[Any]]] = {}
    for xray in torch.split(torch.from_numpy(samples.pixels), 64):
        image, edges = pipeline.preprocessing(xray)
        step = {"xray": xray, "image": image, "edges": edges} | named(pipeline(xray))
        for name, value in step.items():
            gathered.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(values) for name, values in gathered.items()}


def named(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what a pipeline gives by the names of its graph's outputs."""
    return dict(zip(("logits", "probabilities", "edge_map", "novelty"), outputs, strict=False))


def compare_onnx(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    reference: Arrays,
    samples: Samples,
    file_name: str | None = None,
    bounds: Mapping[str, Bound] = BOUNDS,
) -> Leg:
    """Compare an ONNX file with PyTorch's outputs, in every setting.

    Names, dtypes and shapes come before values; a graph that differs there is not run. The
    settings: batches of 1, 2, 7 and 64, shuffled, and without graph optimisations.

    Args:
        path: the file.
        inputs: what it must take.
        outputs: what it must give.
        reference: every input and output by name, (N, ...), as `references` gives them.
        samples: where the inputs came from.
        file_name: the name to record, where the file does not have its final one yet.
        bounds: how far each output may be from PyTorch's.

    Raises:
        ModelRefusedError: ONNX Runtime cannot open the file.
        MissingExtraError: ONNX Runtime is not installed.
    """
    names = [each.name for each in outputs]
    session = open_session(path, "cpu")
    plain = open_session(path, "cpu", optimised=False)

    def run(opened: Any) -> Runner:
        return lambda feed: dict(zip(names, opened.run(names, dict(feed)), strict=True))

    return compare(
        {
            **settings(run(session)),
            "in batches of 7 without graph optimisations": Setting(run(plain), 7),
        },
        (inputs, outputs),
        reference,
        samples,
        Origin(file_name or path.name, sha256(path), session.get_providers()[0]),
        _spec_failures(session, inputs, outputs),
        bounds,
    )


def settings(run: Runner) -> dict[str, Setting]:
    """Return the settings of every leg: batches of 1, 2, 7 and 64, and a shuffled one."""
    batches = {f"in batches of {batch}": Setting(run, batch) for batch in BATCHES}
    return batches | {"in shuffled batches of 7": Setting(run, 7, shuffled=True)}


def compare(
    tried: dict[str, Setting],
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    reference: Arrays,
    samples: Samples,
    origin: Origin,
    failures: list[str],
    bounds: Mapping[str, Bound] = BOUNDS,
) -> Leg:
    """Run every sample in every setting and reach a verdict.

    Args:
        tried: the settings, by how a report calls them.
        specs: inputs and outputs.
        reference: every input and output by name, (N, ...).
        samples: where the inputs came from.
        origin: what is compared.
        failures: of names, dtypes and shapes; with any, nothing is run.
        bounds: how far each output may be from PyTorch's.
    """
    inputs, outputs = specs
    measured = {spec.name: Measurement(spec, samples, bounds[spec.name]) for spec in outputs}
    logits: dict[str, NDArray[Any]] = {}
    for name, setting in {} if failures else tried.items():
        actual = _run(setting, inputs, outputs, reference)
        for spec in outputs:
            measured[spec.name].add(actual[spec.name], reference[spec.name], name)
        if not setting.shuffled:
            logits[name] = actual[outputs[0].name]
    ran = {} if failures else measured
    differences = tuple(each.difference() for each in ran.values())
    failures = failures + [line for each in ran.values() for line in each.failures()]
    return Leg(
        file=origin.file,
        sha256=origin.sha256,
        samples=len(samples.kinds),
        batches=BATCHES,
        settings=tuple(tried),
        provider=origin.provider,
        argmax_agreement=measured[outputs[0].name].argmax_agreement(),
        batch_invariance=_spread(logits),
        outputs=differences,
        flips=tuple(measured[outputs[0].name].flips),
        failures=tuple(failures),
        passed=not failures and all(each.passed for each in differences),
    )


@np.errstate(invalid="ignore")
def _spread(logits: dict[str, NDArray[Any]]) -> float:
    """Return how far the same X-ray is from itself alone, within other batches; -1 for NaN."""
    values = list(logits.values())
    if len({each.shape for each in values}) != 1:
        return -1.0
    spread = float(max(np.abs(each - values[0]).max() for each in values))
    return spread if np.isfinite(spread) else -1.0


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
    setting: Setting,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    reference: Arrays,
) -> dict[str, NDArray[Any]]:
    """Return every output for every sample, (N, ...), in the samples' own order."""
    count = len(reference[outputs[0].name])
    order = np.random.default_rng(0).permutation(count) if setting.shuffled else np.arange(count)
    gathered: dict[str, list[NDArray[Any]]] = {each.name: [] for each in outputs}
    for start in range(0, count, setting.batch):
        chosen = order[start : start + setting.batch]
        actual = setting.run({each.name: reference[each.name][chosen] for each in inputs})
        for name, values in gathered.items():
            values.append(actual[name])
    back = np.argsort(order)
    joined = {name: np.concatenate(values) for name, values in gathered.items()}
    return {
        name: values[back] if len(values) == count else values for name, values in joined.items()
    }

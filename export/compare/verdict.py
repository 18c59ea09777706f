"""What a check of a model came to, and how its manifest keeps it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from export.compare.samples import Samples
from toolkit.extras import versions
from toolkit.model.equivalence import Artifact, EquivalenceRecord, ExportRecord, Leg
from toolkit.model.manifest import Manifest
from toolkit.train.health import Finding

# Without them a model is served none the less.
OPTIONAL = frozenset({"torchscript", "pt2", "fp16", "int8"})


@dataclass(frozen=True)
class Verdict:
    """What an export or a verification came to.

    Attributes:
        record: the manifest, with the verdict over its files.
        legs: the comparisons of this run, by kind; `service` for a running one.
        inputs: the X-rays that went through.
        findings: what is wrong with the model itself.
    """

    record: Manifest
    legs: dict[str, Leg]
    inputs: Samples
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every leg of this run is equal to PyTorch."""
        return all(leg.passed for leg in self.legs.values())

    @property
    def all_legs(self) -> dict[str, Leg]:
        """The legs of this run, and those that the manifest keeps of other files."""
        kept = self.record.equivalence.legs if self.record.equivalence else {}
        return kept | self.legs


def passed(legs: dict[str, Leg]) -> bool:
    """Return whether a model with these legs may be served: whether no needed one failed."""
    return all(leg.passed for kind, leg in legs.items() if kind not in OPTIONAL)


def merged(
    record: Manifest, artifacts: dict[str, Artifact], legs: dict[str, Leg], inputs: Samples
) -> Manifest:
    """Return the manifest with these artifacts and verdicts beside those of other kinds."""
    other_artifacts = record.export.artifacts if record.export else {}
    other_legs = record.equivalence.legs if record.equivalence else {}
    every = other_legs | legs
    return replace(
        record,
        export=ExportRecord(other_artifacts | artifacts, current_versions()),
        equivalence=EquivalenceRecord(passed(every), every, inputs.counts(), current_versions()),
    )


def without(record: Manifest, kinds: Iterable[str]) -> Manifest:
    """Return the manifest without these artifacts and their verdicts."""
    if record.export is None or record.equivalence is None:
        return record
    artifacts = {k: v for k, v in record.export.artifacts.items() if k not in kinds}
    legs = {k: v for k, v in record.equivalence.legs.items() if k not in kinds}
    if not legs:
        return replace(record, export=None, equivalence=None)
    return replace(
        record,
        export=replace(record.export, artifacts=artifacts),
        equivalence=replace(record.equivalence, legs=legs, passed=passed(legs)),
    )


def current_versions() -> dict[str, str]:
    """Return the versions of what compares, by name."""
    found = versions("toolkit", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")
    return {"torch": torch.__version__} | found

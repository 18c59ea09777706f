"""Graded X-rays as tensors, with their labels and their split into train, val and test."""

import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.errors import DataError, ImageError, UsageError
from toolkit.files import name_bytes
from toolkit.model.manifest import DatasetRecord
from toolkit.xray.folders import (
    FRACTIONS,
    PARTS,
    XrayFile,
    crossing_patients,
    patient_of,
    patient_part,
    read_files,
    scan,
)
from toolkit.xray.labels import LabelMap
from toolkit.xray.synthetic import generate

STUDY_COUNT = 6765


@dataclass(frozen=True)
class Dataset:
    """X-rays held once, as grey levels.

    Attributes:
        pixels: uint8 (N, 224, 224).
        labels: class indices, int64 (N,).
        names: N names such as 9003175L.
        label_map: what the class indices mean.
        source: `folder` or `generated`.
        split: how `parts` came about.
        parts: for each part the indices of its X-rays, int64.
        skipped: the files that were refused, with the reason.
        warnings: what the user should know of the split.
    """

    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...]
    label_map: LabelMap
    source: str
    split: str
    parts: dict[str, Tensor]
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def counts(self, part: str) -> tuple[int, ...]:
        """Return the number of X-rays of each class in a part."""
        classes = len(self.label_map.classes)
        return tuple(torch.bincount(self.labels[self.parts[part]], minlength=classes).tolist())

    def record(self) -> DatasetRecord:
        """Return what the manifest keeps of this dataset."""
        patients = {part: self._patients(indices) for part, indices in self.parts.items()}
        return DatasetRecord(
            source=self.source,
            split=self.split,
            counts={part: self.counts(part) for part in self.parts},
            part_sha256={part: self.part_sha256(part) for part in self.parts},
            content_sha256=self._content_sha256(),
            skipped=len(self.skipped),
            patients=len({patient_of(name) for name in self.names}),
            crossing_patients=len(crossing_patients(patients)),
        )

    def identity(self) -> dict[str, Any]:
        """Return all of it that decides what a training comes to, as plain values."""
        record = self.record()
        return {
            "labels": self.label_map.name,
            "split": self.split,
            "data": record.content_sha256,
            "parts": record.part_sha256,
        }

    def part_sha256(self, part: str) -> str:
        """Return a hash of the names and classes in a part, whatever their order."""
        rows = sorted(f"{self.names[i]} {int(self.labels[i])}" for i in self.parts[part].tolist())
        return hashlib.sha256(name_bytes("\n".join(rows))).hexdigest()

    def _patients(self, indices: Tensor) -> list[str]:
        return [patient_of(self.names[index]) for index in indices.tolist()]

    def _content_sha256(self) -> str:
        digest = hashlib.sha256(name_bytes("\n".join(self.names)))
        digest.update(self.pixels.numpy().tobytes())
        return digest.hexdigest()


def load_folder(folder: Path, label_map: LabelMap, split: str | None, seed: int = 0) -> Dataset:
    """Read a folder of graded X-rays; a file that is refused is left out and named.

    Args:
        folder: as `toolkit.xray.folders.scan` takes it.
        split: one of `toolkit.train.recipes.SPLITS`; None takes `published` where the folder has
            parts, else `patient`.
        seed: of the `patient` split.

    Raises:
        DataError: no X-ray can be used, or `published` is asked of a flat folder.
    """
    files = [file for file in scan(folder) if label_map.class_of(file.grade) is not None]
    if split is None:
        split = "published" if any(file.part for file in files) else "patient"
    kept: list[XrayFile] = []
    skipped: list[str] = []
    pixels = np.empty((len(files), 224, 224), dtype=np.uint8)
    for file, result in read_files(files):
        if isinstance(result, ImageError):
            skipped.append(f"{file.path}: {result}")
        else:
            pixels[len(kept)] = result
            kept.append(file)
    if not kept:
        raise DataError(f"no X-ray in {folder} can be used with the labels {label_map.name!r}")
    names = tuple(file.name for file in kept)
    parts, notes = _split(split, names, [file.part for file in kept], seed)
    return Dataset(
        pixels=torch.from_numpy(pixels[: len(kept)]),
        labels=torch.tensor([label_map.class_of(file.grade) for file in kept]),
        names=names,
        label_map=label_map,
        source="folder",
        split=split,
        parts=parts,
        skipped=tuple(skipped),
        warnings=tuple(notes),
    )


def generated(count: int, label_map: LabelMap, split: str | None = None, seed: int = 0) -> Dataset:
    """Return drawn X-rays, split by patient unless `split` says `study`.

    Raises:
        DataError: the split `published` is asked for; drawn X-rays have none.
    """
    split = split or "patient"
    grades = tuple(grade for grades in label_map.grades for grade in grades)
    xrays = generate(count, seed=seed, grades=grades)
    names = tuple(xray.name for xray in xrays)
    parts, notes = _split(split, names, [None] * len(xrays), seed)
    return Dataset(
        pixels=torch.from_numpy(np.stack([xray.pixels for xray in xrays])),
        labels=torch.tensor([label_map.class_of(xray.grade) for xray in xrays]),
        names=names,
        label_map=label_map,
        source="generated",
        split=split,
        parts=parts,
        warnings=tuple(notes),
    )


def study_split(count: int) -> dict[str, Tensor]:
    """Return the study's random split of `count` X-rays into 70, 10 and 20 %.

    It is drawn over X-rays, not over patients, as the study did: seed 1, `random_split`. Of a
    few X-rays a part may get none: it is left out.
    """
    with warnings.catch_warnings(action="ignore"):
        subsets: list[torch.utils.data.Subset[int]] = torch.utils.data.random_split(
            range(count),  # type: ignore[arg-type]
            FRACTIONS,
            generator=torch.Generator().manual_seed(1),
        )
    return {
        part: torch.tensor(list(subset.indices), dtype=torch.int64)
        for part, subset in zip(PARTS, subsets, strict=True)
        if len(subset)
    }


def _split(
    split: str, names: tuple[str, ...], folders: list[str | None], seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Return each part's indices, and warnings."""
    if split == "study":
        return _study_parts(names)
    if split == "patient":
        return _indices_by_part([patient_part(patient_of(name), seed) for name in names]), []
    if None in folders:
        raise DataError(
            "the published split needs folders train, val and test: use --split patient"
        )
    parts = _indices_by_part([str(folder) for folder in folders])
    return parts, _crossing_warning(parts, names)


def _indices_by_part(part_of: list[str]) -> dict[str, Tensor]:
    present = [part for part in PARTS if part in part_of]
    return {
        part: torch.tensor([i for i, other in enumerate(part_of) if other == part])
        for part in present
    }


def _study_parts(names: tuple[str, ...]) -> tuple[dict[str, Tensor], list[str]]:
    parts = study_split(len(names))
    notes = []
    if len(names) != STUDY_COUNT:
        notes.append(
            f"this is not the study's split: it has {STUDY_COUNT} X-rays, here are {len(names)}"
        )
    return parts, notes + _crossing_warning(parts, names)


def _crossing_warning(parts: dict[str, Tensor], names: tuple[str, ...]) -> list[str]:
    patients = {part: [patient_of(names[i]) for i in ids.tolist()] for part, ids in parts.items()}
    crossing = len(crossing_patients(patients))
    if not crossing:
        return []
    return [f"{crossing} patients have X-rays in more than one part: figures will flatter"]


def require_classes(dataset: Dataset, part: str) -> None:
    """Check that a part has at least one X-ray of every class.

    Raises:
        DataError: the part is missing, or a class is empty; both are named.
    """
    if part not in dataset.parts:
        raise DataError(f"the data has no part {part!r}: it has {', '.join(dataset.parts)}")
    empty = [
        name
        for name, count in zip(dataset.label_map.classes, dataset.counts(part), strict=True)
        if count == 0
    ]
    if empty:
        raise DataError(f"no X-ray of class {', '.join(empty)} in the part {part!r}: add some")


def class_weights(kind: str, labels: Tensor, classes: int) -> Tensor | None:
    """Return the loss weight of each class, float32 (classes,), or None for equal ones.

    Args:
        kind: as in `Recipe.class_weights`.
        labels: of the training part in its order, int64 (N,).
        classes: number of classes C.
    """
    counts = torch.bincount(labels, minlength=classes).float()
    if kind == "none":
        return None
    if kind == "counts_first_seen":
        first_seen = list(dict.fromkeys(labels.tolist()))
        return counts[torch.tensor(first_seen)]
    if kind == "inverse_sqrt":
        weights = counts.rsqrt()
        return weights / weights.mean()
    if kind == "inverse":
        weights = counts.reciprocal()
        return weights / weights.mean()
    raise UsageError(f"no class weights are called {kind!r}")

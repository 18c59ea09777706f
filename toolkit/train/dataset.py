"""Graded X-rays as tensors, with their labels and their split into train, val and test."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.errors import DataError, ImageError, UsageError, numbered
from toolkit.files import name_bytes
from toolkit.model.records import DatasetRecord
from toolkit.train.split import copies_warning, crossing, draw_parts
from toolkit.xray.annotations.label_table import LabelTable
from toolkit.xray.annotations.patients import (
    BY_FILES,
    BY_TABLE,
    PatientRule,
    Patients,
    by_name,
    identify_patients,
)
from toolkit.xray.bulk import read_files
from toolkit.xray.copies import copies, differing, picture_key
from toolkit.xray.folders import XrayFile, class_of, left_out_lines, scan
from toolkit.xray.labels import GRADES, LABEL_MAPS, LabelMap
from toolkit.xray.reading import SIZE
from toolkit.xray.scaling import shaped
from toolkit.xray.synthetic import generate

SHOWN = 5


@dataclass(frozen=True)
class Dataset:
    """X-rays held once, as grey levels.

    Attributes:
        pixels: uint8 (N, size, size), or (N, size, size, 3) in colour.
        labels: class indices, int64 (N,).
        names: N names such as 9003175L.
        patients: whose they are.
        label_map: what the class indices mean.
        source: `folder` or `generated`.
        split: how `parts` came about.
        parts: for each part the indices of its X-rays, int64.
        skipped: the files that were refused, with the reason.
        left_out: the folders that were not understood.
        conflicts: X-rays with the same pixels in two classes.
        warnings: what the user should know of the split.
        rule: what the user said of how patients are told apart.
        files: N files that they were read from; none of drawn ones.
    """

    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...]
    patients: Patients
    label_map: LabelMap
    source: str
    split: str
    parts: dict[str, Tensor]
    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    rule: PatientRule = BY_FILES
    files: tuple[XrayFile, ...] = ()

    def counts(self, part: str) -> tuple[int, ...]:
        """Return the number of X-rays of each class in a part."""
        classes = len(self.label_map.classes)
        return tuple(torch.bincount(self.labels[self.parts[part]], minlength=classes).tolist())

    def record(self) -> DatasetRecord:
        """Return what the manifest keeps of this dataset."""
        return DatasetRecord(
            source=self.source,
            split=self.split,
            counts={part: self.counts(part) for part in self.parts},
            part_sha256={part: self.part_sha256(part) for part in self.parts},
            content_sha256=self._content_sha256(),
            skipped=len(self.skipped),
            patients=self.patients.count,
            crossing_patients=len(crossing(self.parts, self.patients)),
            patient_pattern=self.rule.pattern,
            patient_table=BY_TABLE in self.patients.sources,
        )

    def identity(self) -> dict[str, Any]:
        """Return all of it that decides what a training comes to, as plain values."""
        record = self.record()
        labels = self.label_map
        own = {
            "classes": list(labels.classes),
            "grades": [list(grades) for grades in labels.grades],
            "ordinal": labels.ordinal,
        }
        return {
            "labels": labels.name,
            **({} if labels == LABEL_MAPS.get(labels.name) else own),
            "split": self.split,
            "data": record.content_sha256,
            "parts": record.part_sha256,
        }

    def part_sha256(self, part: str) -> str:
        """Return a hash of the names and classes in a part, whatever their order."""
        rows = sorted(f"{self.names[i]} {int(self.labels[i])}" for i in self.parts[part].tolist())
        return hashlib.sha256(name_bytes("\n".join(rows))).hexdigest()

    def _content_sha256(self) -> str:
        digest = hashlib.sha256(name_bytes("\n".join(self.names)))
        digest.update(self.pixels.numpy().tobytes())
        return digest.hexdigest()


def load_folder(
    folder: Path,
    label_map: LabelMap,
    split: str | None,
    seed: int = 0,
    rule: PatientRule = BY_FILES,
    cache: Path | None = None,
    shape: tuple[int, ...] = (SIZE, SIZE),
    table: LabelTable | None = None,
    part: str | None = None,
) -> Dataset:
    """Read a folder of graded X-rays; a file that is refused is left out and named.

    Args:
        folder: as `toolkit.xray.folders.scan` takes it.
        split: one of `toolkit.train.recipes.SPLITS`; None takes `published` where the folder has
            parts, else `patient`.
        seed: of the `patient` split.
        rule: how patients are told apart, where the user says so.
        cache: folder of decoded pixels, as `toolkit.xray.bulk.read_files` takes it.
        shape: of one X-ray: (size, size), or (size, size, 3) in colour.
        table: which file is of which class, where a table says so.
        part: the only one to read, where the folder has parts; None for all.

    Raises:
        DataError: no X-ray can be used, or `published` is asked of a flat folder.
        UsageError: the table and the rule both say who is who.
    """
    files = [
        file
        for file in scan(folder, label_map, table)
        if class_of(file, label_map) is not None and part in (None, file.part)
    ]
    if split is None:
        split = "published" if any(file.part for file in files) else "patient"
    kept: list[XrayFile] = []
    skipped: list[str] = []
    pixels = np.empty((len(files), *shape), dtype=np.uint8)
    for file, result in read_files(files, cache, shape):
        if isinstance(result, ImageError):
            skipped.append(str(result))
        else:
            pixels[len(kept)] = result
            kept.append(file)
    if not kept:
        raise DataError(f"no X-ray in {folder} can be used with the labels {label_map.name!r}")
    patients = identify_patients(kept, folder, rule)
    labels = [class_of(file, label_map) for file in kept]
    with ThreadPoolExecutor() as pool:
        found = copies(pool.map(picture_key, pixels[: len(kept)]))
    parts, notes = draw_parts(split, patients, found, [file.part for file in kept], seed)
    paths = [file.path.relative_to(folder).as_posix() for file in kept]
    return Dataset(
        pixels=torch.from_numpy(pixels[: len(kept)]),
        labels=torch.tensor(labels),
        names=tuple(file.name for file in kept),
        patients=patients,
        label_map=label_map,
        source="folder",
        split=split,
        parts=parts,
        skipped=tuple(skipped),
        left_out=tuple(left_out_lines(folder, label_map, table)),
        conflicts=tuple(f"{paths[a]} and {paths[b]}" for a, b in differing(found, labels)),
        warnings=tuple(notes + copies_warning(parts, found, paths)),
        rule=rule,
        files=tuple(kept),
    )


def generated(
    count: int,
    label_map: LabelMap,
    split: str | None = None,
    seed: int = 0,
    shape: tuple[int, ...] = (SIZE, SIZE),
) -> Dataset:
    """Return drawn X-rays of some shape, split by patient unless `split` says `study`.

    Raises:
        DataError: the split `published` is asked for; drawn X-rays have none. Or the classes have
            no grades to draw.
    """
    if not label_map.folders_are_grades:
        raise DataError("X-rays are drawn by grade, and these labels have none: give --data")
    split = split or "patient"
    grades = [grade for grade in GRADES if label_map.class_of(grade) is not None]
    xrays = generate(count, seed=seed, grades=grades)
    names = tuple(xray.name for xray in xrays)
    patients = by_name(names)
    parts, notes = draw_parts(split, patients, [], [None] * len(xrays), seed)
    return Dataset(
        pixels=torch.from_numpy(np.stack([shaped(xray.pixels, shape) for xray in xrays])),
        labels=torch.tensor([label_map.class_of(xray.grade) for xray in xrays]),
        names=names,
        patients=patients,
        label_map=label_map,
        source="generated",
        split=split,
        parts=parts,
        warnings=tuple(notes),
    )


def require_patients(dataset: Dataset) -> None:
    """Check that X-rays are of more than one patient.

    Raises:
        DataError: they are all of one.
    """
    if dataset.patients.count == 1:
        raise DataError(
            f"all {len(dataset.names)} X-rays are taken for those of one patient, told apart by "
            f"{', '.join(dataset.patients.sources)}: say whose they are with --patients REGEX or "
            "--groups FILE.csv"
        )


def require_agreement(dataset: Dataset) -> None:
    """Check that no picture is in two classes.

    Raises:
        DataError: some are; the first few are listed.
    """
    if dataset.conflicts:
        what = "grades" if dataset.label_map.folders_are_grades else "classes"
        raise DataError(
            f"{numbered(len(dataset.conflicts), 'X-ray')} under two {what}: "
            f"{'; '.join(dataset.conflicts[:SHOWN])}{'; ...' * (len(dataset.conflicts) > SHOWN)}; "
            "keep one of each (toolkit data inspect lists them), or give --allow-conflicts"
        )


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

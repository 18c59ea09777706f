"""Which X-rays a network learns from and which it is judged by: train, val and test."""

import warnings

import torch
from torch import Tensor

from toolkit.errors import DataError, numbered
from toolkit.xray.annotations.patients import Patients
from toolkit.xray.copies import differing, unite
from toolkit.xray.folders import FRACTIONS, PARTS, crossing_patients, patient_part

STUDY_COUNT = 6765


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


def draw_parts(
    split: str,
    patients: Patients,
    found: list[tuple[int, ...]],
    folders: list[str | None],
    seed: int,
) -> tuple[dict[str, Tensor], list[str]]:
    """Return each part's indices, and warnings; copies, `found`, go where the first one goes."""
    if split == "study":
        return _study_parts(patients)
    if split == "patient":
        return _indices_by_part(
            [patient_part(key, seed) for key in unite(patients.keys, found)]
        ), []
    if None in folders:
        raise DataError(
            "the published split needs folders train, val and test: use --split patient"
        )
    parts = _indices_by_part([str(folder) for folder in folders])
    return parts, _crossing_warning(parts, patients)


def _indices_by_part(part_of: list[str]) -> dict[str, Tensor]:
    present = [part for part in PARTS if part in part_of]
    return {
        part: torch.tensor([i for i, other in enumerate(part_of) if other == part])
        for part in present
    }


def _study_parts(patients: Patients) -> tuple[dict[str, Tensor], list[str]]:
    count = len(patients.keys)
    parts = study_split(count)
    notes = []
    if count != STUDY_COUNT:
        notes.append(
            f"this is not the study's split: it has {STUDY_COUNT} X-rays, here are {count}"
        )
    return parts, notes + _crossing_warning(parts, patients)


def crossing(parts: dict[str, Tensor], patients: Patients) -> set[str]:
    """Return the patients that have X-rays in more than one part."""
    places = [(part, index) for part, indices in parts.items() for index in indices.tolist()]
    return crossing_patients(
        [part for part, _ in places], [patients.keys[index] for _, index in places]
    )


def _crossing_warning(parts: dict[str, Tensor], patients: Patients) -> list[str]:
    count = len(crossing(parts, patients))
    if not count:
        return []
    return [f"{numbered(count, 'patient')} with X-rays in more than one part: figures will flatter"]


def copies_warning(
    parts: dict[str, Tensor], found: list[tuple[int, ...]], paths: list[str]
) -> list[str]:
    """Return a warning where copies, `found`, lie in more than one part; nothing else."""
    part_of = {index: part for part, ids in parts.items() for index in ids.tolist()}
    pairs = differing(found, [part_of[index] for index in range(len(paths))])
    if not pairs:
        return []
    first, other = pairs[0]
    return [
        f"{numbered(len(pairs), 'X-ray')} with copies in another part, figures will flatter: such "
        f"as {paths[first]} and {paths[other]}"
    ]

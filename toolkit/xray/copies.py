"""Pictures that are there twice: the same pixels under two names, mirrored ones too."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def picture_key(pixels: NDArray[np.uint8]) -> bytes:
    """Return what an X-ray, uint8 (H, W), and its mirror image have in common: 16 bytes."""
    sides = (pixels, pixels[:, ::-1])
    return min(hashlib.blake2b(each.tobytes(), digest_size=16).digest() for each in sides)


def copies(keys: Iterable[bytes]) -> list[tuple[int, ...]]:
    """Return the places of those that are one picture, for each picture that is there twice."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return [tuple(found) for found in places.values() if len(found) > 1]


def differing(found: list[tuple[int, ...]], values: Sequence[object]) -> list[tuple[int, int]]:
    """Return two places of each picture whose copies have different values, such as grades."""
    pairs = []
    for places in found:
        first = places[0]
        other = next((place for place in places if values[place] != values[first]), None)
        if other is not None:
            pairs.append((first, other))
    return pairs


def unite(patients: Sequence[str], found: list[tuple[int, ...]]) -> list[str]:
    """Return one name for all patients that a picture connects: the first in alphabetical order."""
    parents: dict[str, str] = {}

    def root(patient: str) -> str:
        while (parent := parents.get(patient, patient)) != patient:
            patient = parent
        return patient

    for places in found:
        first, *others = sorted({root(patients[place]) for place in places})
        parents.update(dict.fromkeys(others, first))
    return [root(patient) for patient in patients]

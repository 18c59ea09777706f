"""Folders of graded X-rays: which files there are, of which grade, patient and part."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DataError, ImageError
from toolkit.files import name_bytes
from toolkit.xray.labels import GRADES
from toolkit.xray.reading import read_xray

PARTS = ("train", "val", "test")
FRACTIONS = (0.7, 0.1, 0.2)
_NAME = re.compile(r"(?P<patient>.+?)(?P<side>[LR])")


@dataclass(frozen=True)
class XrayFile:
    """One graded X-ray on disk.

    Attributes:
        part: `train`, `val` or `test`; None in a flat folder.
        grade: Kellgren-Lawrence grade, 0 to 4.
    """

    path: Path
    part: str | None
    grade: int

    @property
    def name(self) -> str:
        """The file's name without its suffix, such as 9003175L."""
        return self.path.stem

    @property
    def patient(self) -> str:
        """The file's name without suffix and side."""
        return patient_of(self.name)


def patient_of(name: str) -> str:
    """Return the patient in an X-ray's name: 9003175 in 9003175L; else the whole name."""
    match = _NAME.fullmatch(name)
    return match["patient"] if match else name


def patient_part(patient: str, seed: int = 0) -> str:
    """Return the part of a patient: 70 % train, 10 % val, 20 % test.

    It depends on nothing but the patient's name and the seed, so X-rays added later move nobody.
    """
    digest = hashlib.sha256(name_bytes(f"{seed}/{patient}")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    train, val, _ = FRACTIONS
    if place < train:
        return "train"
    return "val" if place < train + val else "test"


def scan(folder: Path) -> list[XrayFile]:
    """List the X-rays of `folder/<part>/<grade>/` or of a flat `folder/<grade>/`.

    Order: parts as in `PARTS`, then by grade, then by file name. Hidden files are left out.

    Raises:
        DataError: there is no such folder, or no grade folder in it.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}: check the path given with --data")
    parts: list[str | None] = [part for part in PARTS if (folder / part).is_dir()]
    files = [
        XrayFile(path, part, grade)
        for part in parts or [None]
        for grade in GRADES
        for path in _files_of(folder / (part or "") / str(grade))
    ]
    if not files:
        raise DataError(
            f"no X-rays in {folder}: expected folders train, val, test, each with folders 0 to 4 "
            "for the grades, or the folders 0 to 4 alone"
        )
    return files


def _files_of(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    # A link to nowhere is an unreadable file, to be named as one.
    files = (path for path in found if path.is_file() or path.is_symlink())
    return sorted(path for path in files if not path.name.startswith("."))


def read_files(
    files: Iterable[XrayFile],
) -> Iterator[tuple[XrayFile, NDArray[np.uint8] | ImageError]]:
    """Yield each file, in order, with its pixels, uint8 (224, 224), or why it is refused."""

    def attempt(file: XrayFile) -> NDArray[np.uint8] | ImageError:
        try:
            return read_xray(file.path)
        except ImageError as error:
            return error

    remaining = iter(files)
    # Pillow decodes without the interpreter's lock; blocks keep few X-rays in flight.
    with ThreadPoolExecutor() as pool:
        while block := list(islice(remaining, 256)):
            yield from zip(block, pool.map(attempt, block), strict=True)


def crossing_patients(parts: dict[str, list[str]]) -> set[str]:
    """Return the patients named in more than one part.

    Args:
        parts: the patients of each part's X-rays.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for part, patients in parts.items():
        for patient in patients:
            seen[patient].add(part)
    return {patient for patient, where in seen.items() if len(where) > 1}

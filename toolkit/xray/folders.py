"""Folders of graded X-rays: which files there are, of which grade, patient and part."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import DataError, numbered
from toolkit.files import name_bytes
from toolkit.xray.labels import FOLDERS, LabelMap

PARTS = ("train", "val", "test")
FRACTIONS = (0.7, 0.1, 0.2)
_PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_GRADE_OF = {
    **dict.fromkeys(("normal", "none", "healthy"), 0),
    **dict.fromkeys(("doubtful", "questionable"), 1),
    **dict.fromkeys(("minimal", "mild"), 2),
    "moderate": 3,
    "severe": 4,
}
_GRADE = re.compile(
    r"(?:(?:kl|k-l|grade|kellgren[ _-]?lawrence)[ _-]*)*(?P<number>0*[0-4](?:\.0+)?(?=$|[^.\d]))?"
    rf"[ _-]*(?P<word>{'|'.join(_GRADE_OF)})?"
)
_PICTURES = frozenset(
    (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".gif", ".webp")
)


@dataclass(frozen=True)
class XrayFile:
    """One graded X-ray on disk.

    Attributes:
        part: `train`, `val` or `test`; None in a flat folder.
        grade: Kellgren-Lawrence grade, 0 to 4; -1 where folders are classes.
        name: its path below the grade's folder without its suffix: 9003175L, or 9003175/left.
        label: the name of the folder that stands for its grade or class.
    """

    path: Path
    part: str | None
    grade: int
    name: str
    label: str = ""

    @property
    def path_stem(self) -> str:
        """The file's own name without its suffix."""
        return self.name.rpartition("/")[2]


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


def scan(folder: Path, labels: LabelMap | None = None) -> list[XrayFile]:
    """List the X-rays of `folder/<part>/<grade>/` or of a flat `folder/<grade>/`.

    Below a grade there may be a folder for each patient. Parts and grades may be spelt as people
    spell them: `valid`, `1.0`, `KL-2`, `3Moderate`. Hidden files are left out. With labels that
    have no grades, each of their classes is a folder of that name.

    Order: parts as in `PARTS`, then by grade or class, then by file name.

    Raises:
        DataError: there is no such folder, or no X-ray in a grade's or class's folder.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}: check the path given with --data")
    found = [
        (PARTS.index(part) if part else 0, place, path.relative_to(within), path, part, within.name)
        for within, (part, place) in _class_folders(folder, labels).items()
        for path in _files_of(within)
    ]
    if not found:
        others = "".join(f"; {counted}" for counted in left_out_lines(folder, labels)[:3])
        wanted = (
            "0 to 4 for the grades, or the folders 0 to 4 alone"
            if _is_graded(labels)
            else "of its classes, or those alone"
        )
        raise DataError(
            f"no X-rays in {folder}: expected folders train, val, test, each with folders "
            f"{wanted}{others}"
        )
    return [
        XrayFile(path, part, place if _is_graded(labels) else -1, _name(file), label)
        for _, place, file, path, part, label in sorted(found)
    ]


def class_of(file: XrayFile, labels: LabelMap) -> int | None:
    """Return the class index of an X-ray; None where the labels drop its grade."""
    if labels.grades:
        return labels.class_of(file.grade)
    return labels.classes.index(file.label)


def folder_labels(folder: Path) -> LabelMap:
    """Return labels whose classes are the folders of a data folder; numbers in their order.

    Raises:
        DataError: there is no such folder, or fewer than two classes are in it.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}: check the path given with --data")
    within = [*_part_folders(folder)] or [folder]
    names = {path.name for part in within for path in _visible(part) if path.is_dir()}
    if len(names) < 2:
        raise DataError(
            f"{folder} has {len(names)} folders of classes: expected train, val, test, each with a "
            "folder for each class, or those folders alone"
        )
    return LabelMap(FOLDERS, tuple(sorted(names, key=_natural)), ())


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what names sort by so that 10 comes after 9."""
    return [(int(each), "") if each.isdigit() else (-1, each) for each in re.split(r"(\d+)", name)]


def _is_graded(labels: LabelMap | None) -> bool:
    return labels is None or bool(labels.grades)


def left_out_lines(folder: Path, labels: LabelMap | None = None) -> list[str]:
    """Name the folders that `scan` does not understand, and loose pictures, with their counts."""
    parts = _part_folders(folder)
    understood = {folder, *parts, *_class_folders(folder, labels)}
    counts: Counter[Path] = Counter()
    what = "grade" if _is_graded(labels) else "class"
    for within in (folder, *parts):
        for path in _visible(within):
            if path.is_dir() and path not in understood:
                counts[path] += len(_files_of(path))
            elif path.suffix.lower() in _PICTURES:
                counts[within] += 1
    return [
        f"left out: {path.relative_to(folder)}, not a part or {what}: {numbered(count, 'file')}"
        if path not in understood
        else f"left out: {numbered(count, 'file')} in {path.relative_to(folder)} without a {what}"
        for path, count in counts.items()
        if count
    ]


def _part_folders(folder: Path) -> dict[Path, str]:
    """Return the part of each folder that is one."""
    found = ((path, _PART_OF.get(path.name.lower())) for path in _visible(folder) if path.is_dir())
    return {path: part for path, part in found if part}


def _class_folders(folder: Path, labels: LabelMap | None) -> dict[Path, tuple[str | None, int]]:
    """Return part and grade, or class index, of each folder that stands for one."""
    parts: dict[Path, str] | dict[Path, None] = _part_folders(folder) or {folder: None}
    named = {} if labels is None else {name: i for i, name in enumerate(labels.classes)}
    place_of = _grade if _is_graded(labels) else named.get
    found = (
        (path, part, place_of(path.name))
        for within, part in parts.items()
        for path in _visible(within)
        if path.is_dir()
    )
    return {path: (part, place) for path, part, place in found if place is not None}


def _grade(name: str) -> int | None:
    """Return the grade in a folder's name: 0 to 4 as a number, a word that means it, or both."""
    match = _GRADE.fullmatch(name.strip().lower())
    if match is None:
        return None
    by_word = {_GRADE_OF[match["word"]]} if match["word"] else set()
    by_number = {int(float(match["number"]))} if match["number"] else set()
    grades = by_word | by_number
    return grades.pop() if len(grades) == 1 else None


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _files_of(folder: Path) -> list[Path]:
    """Return the files in a folder and those below it; a link to nowhere is one, to be named."""
    files: list[Path] = []
    seen: set[str] = set()
    for within, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(within)) in seen:
            folders.clear()  # a link to a folder above would go round for ever
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(within, name) for name in names if not name.startswith("."))
        files += (path for path in paths if path.is_file() or not path.exists())
    return files


def _name(file: Path) -> str:
    """Return a path without its suffix; the number that ends a DICOM UID is not a suffix."""
    return (file if file.suffix[1:].isdigit() else file.with_suffix("")).as_posix()


def crossing_patients(parts: Iterable[str], patients: Iterable[str]) -> set[str]:
    """Return the patients with X-rays in more than one part, given both of each X-ray."""
    seen: dict[str, set[str]] = defaultdict(set)
    for part, patient in zip(parts, patients, strict=True):
        seen[patient].add(part)
    return {patient for patient, where in seen.items() if len(where) > 1}

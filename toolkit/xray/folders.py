"""Folders of graded X-rays: which files there are, of which grade, patient and part."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import DataError, numbered, printable
from toolkit.files import name_bytes
from toolkit.xray.labels import FOLDERS, LabelMap, checked_label, in_counting_order

if TYPE_CHECKING:
    from toolkit.xray.annotations.label_table import LabelTable

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
_WORDS = "|".join(_GRADE_OF)
_GRADE = re.compile(
    rf"(?:(?:klg?|k-l|grade|kellgren[ _-]?lawrence)[ _-]*)*(?:(?P<before>{_WORDS})[ _-]*)?"
    r"(?P<number>0*[0-4](?:\.0+)?(?=$|[^.\d]))?"
    rf"(?:[ _-]*\(?(?P<word>{_WORDS})\)?)?"
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
        name: its path without its suffix, below the grade's folder, or below the folder that all
            files of a table lie in: 9003175L, or 9003175/left.
        label: the name of the folder, or in the table, that stands for its grade or class.
        patient: as the table says; None where nothing does.
    """

    path: Path
    part: str | None
    grade: int
    name: str
    label: str = ""
    patient: str | None = None

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


def scan(
    folder: Path, labels: LabelMap | None = None, table: "LabelTable | None" = None
) -> list[XrayFile]:
    """List the X-rays of `folder/<part>/<grade>/` or of a flat `folder/<grade>/`, or of a table.

    Below a grade there may be a folder for each patient. Parts and grades may be spelt as people
    spell them: `valid`, `1.0`, `KL-2`, `3Moderate`. Hidden files are left out. Where the labels
    say so, folders are those of classes. A table says alone what there is, wherever it lies.

    Order: parts as in `PARTS`, then by grade or class, then by file name.

    Raises:
        DataError: there is no such folder, or no X-ray in a grade's or class's folder; or a table
            names a file that is not there, or a label that is in no class.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}: check the path given with --data")
    if table:
        return _listed(folder, labels, table)
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
            f"{wanted}; else --labels FILE says which are which{others}"
        )
    return [
        XrayFile(path, part, place if _is_graded(labels) else -1, _name(file), label)
        for _, place, file, path, part, label in sorted(found)
    ]


def _listed(folder: Path, labels: LabelMap | None, table: "LabelTable") -> list[XrayFile]:
    """Return the X-rays that a table names."""
    shared = os.path.commonpath([os.path.dirname(row.file) for row in table.rows])
    found = []
    for row in table.rows:
        path = folder / row.file
        # Unlike pathlib's, it raises for no name, however long.
        if not os.path.isfile(path):
            raise DataError(f"{row.where}: {folder} has no file {printable(row.file, 200)}")
        place = _place(row.label, labels)
        if place is None:
            known = ", ".join(labels.classes) if labels else "0 to 4"
            raise DataError(
                f"{row.where}: the label {row.label!r} is in no class: they are {known}"
            )
        below = Path(row.file).relative_to(shared)
        grade = place if _is_graded(labels) else -1
        file = XrayFile(path, row.part, grade, _name(below), row.label, row.patient)
        found.append((PARTS.index(row.part) if row.part else 0, place, below, file))
    return [file for *_, file in sorted(found, key=lambda each: each[:3])]


def class_of(file: XrayFile, labels: LabelMap) -> int | None:
    """Return the class index of an X-ray; None where the labels drop its grade."""
    if labels.folders_are_grades:
        return labels.class_of(file.grade)
    return labels.class_named(file.label)


def folder_labels(folder: Path) -> LabelMap:
    """Return labels whose classes are the folders of a data folder; numbers in their order.

    Raises:
        DataError: there is no such folder, fewer than two classes are in it, or the name of one is
            no label.
    """
    names = class_folder_names(folder)
    if len(names) < 2:
        raise DataError(
            f"{folder} has {numbered(len(names), 'folder')} of classes: expected train, val, test, "
            "each with a folder for each class, or those folders alone"
        )
    for name in names:
        checked_label(name, str(folder))
    return LabelMap(FOLDERS, in_counting_order(names), (), ordinal=False)


def class_folder_names(folder: Path) -> set[str]:
    """Return the names of the folders that may be classes: those below parts, or else all.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}: check the path given with --data")
    within = [*_part_folders(folder)] or [folder]
    return {path.name for part in within for path in _visible(part) if path.is_dir()}


def _is_graded(labels: LabelMap | None) -> bool:
    return labels is None or labels.folders_are_grades


def _place(name: str, labels: LabelMap | None) -> int | None:
    """Return the grade, or the class index, that a folder or a label stands for."""
    if labels is None or labels.folders_are_grades:
        return _grade(name)
    return labels.class_named(name)


def left_out_lines(
    folder: Path, labels: LabelMap | None = None, table: "LabelTable | None" = None
) -> list[str]:
    """Name the folders that `scan` does not understand, and loose pictures, with their counts."""
    if table:
        return _unlisted(folder, table)
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


def _unlisted(folder: Path, table: "LabelTable") -> list[str]:
    """Count the pictures that a table does not name."""
    listed = {folder / row.file for row in table.rows}
    rest = [path for path in _files_of(folder) if path.suffix.lower() in _PICTURES]
    count = sum(path not in listed for path in rest)
    return [f"left out: {numbered(count, 'file')} not in {table.path}"] if count else []


def part_called(name: str) -> str | None:
    """Return the part that a folder, or a table, calls so; None of another word."""
    return _PART_OF.get(re.sub(r"[ _-]?(set|data)$", "", name.strip().lower()))


def _part_folders(folder: Path) -> dict[Path, str]:
    """Return the part of each folder that is one."""
    found = ((path, part_called(path.name)) for path in _visible(folder) if path.is_dir())
    return {path: part for path, part in found if part}


def _class_folders(folder: Path, labels: LabelMap | None) -> dict[Path, tuple[str | None, int]]:
    """Return part and grade, or class index, of each folder that stands for one."""
    parts: dict[Path, str] | dict[Path, None] = _part_folders(folder) or {folder: None}
    found = (
        (path, part, _place(path.name, labels))
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
    by_word = {_GRADE_OF[word] for word in (match["before"], match["word"]) if word}
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

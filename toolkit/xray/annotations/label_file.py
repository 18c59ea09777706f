"""A file of labels, in TOML: the classes in order, and what of the data makes each."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from toolkit.errors import DataError, printable
from toolkit.xray.annotations.tables import read_text
from toolkit.xray.folders import class_folder_names
from toolkit.xray.labels import GRADES, KELLGREN_LAWRENCE, LabelMap, checked_label

_Grades = tuple[tuple[int | float, ...], ...]
_LARGEST = 1e12  # of a grade; float64 does not hold what is far beyond


class ListedClass(Struct, forbid_unknown_fields=True):
    """One of `[[classes]]`; without `folders` and `grades` a folder is called as it is."""

    name: str
    folders: tuple[str, ...] = ()
    grades: tuple[int, ...] = ()
    grade: int | float | None = None


class Document(Struct, forbid_unknown_fields=True):
    """The whole file; `table` is a CSV file that says which file has which label."""

    classes: Annotated[tuple[ListedClass, ...], Meta(min_length=2)]
    ordinal: bool = False
    scale: str = ""
    table: str = ""


@dataclass(frozen=True)
class _Source:
    """What a file of labels holds, for messages about it."""

    path: Path
    lines: tuple[str, ...]

    def place(self, index: int | None = None, key: str = "") -> str:
        """Return the file and the line of a key, in the class of that index or at the top."""
        starts = [n for n, line in enumerate(self.lines) if re.match(r"\s*\[\[\s*classes", line)]
        ends = [*starts, len(self.lines)]
        if index is None:
            begin, end = 0, ends[0]
        elif index < len(starts):
            begin, end = starts[index], ends[index + 1]
        else:
            begin, end = 0, len(self.lines)
        named = (n for n in range(begin, end) if re.match(rf"\s*{key}\s*=", self.lines[n]))
        return f"{self.path}, line {next(named, begin) + 1}"

    def error(self, message: str, index: int | None = None, key: str = "") -> DataError:
        return DataError(f"{self.place(index, key)}: {message}")


@dataclass(frozen=True)
class LabelFile:
    """A file of labels.

    Attributes:
        labels: what it says.
        table: the path of the table that it names, if any.
    """

    labels: LabelMap
    table: Path | None
    _source: _Source

    def require_folders(self, folder: Path) -> None:
        """Check that a data folder has every folder that is named.

        Raises:
            DataError: it lacks one, whose line is named, or there is no data folder.
        """
        there = class_folder_names(folder)
        for index, names in enumerate(self.labels.folders):
            for name in (each for each in names if each not in there):
                known = ", ".join(sorted(map(printable, there))[:10]) or "none"
                raise self._source.error(
                    f"{folder} has no folder {name!r}: there are {known}", index, "folders"
                )


def read_label_file(path: Path) -> LabelFile:
    """Read a file of labels.

    Raises:
        DataError: it cannot be read, or says what cannot be meant; the message names the line.
    """
    text = read_text(path, "--labels")
    source = _Source(path, tuple(text.splitlines()))
    try:
        document = msgspec.convert(tomllib.loads(text), Document)
    except msgspec.ValidationError as error:
        raise _misfit(source, str(error)) from None
    except (ValueError, RecursionError) as error:  # a number too long to read is no TOML error
        raise DataError(f"{path} is no TOML: {printable(error)}") from None
    table = path.parent / document.table if document.table else None
    return LabelFile(_labels(document, source), table, source)


def _misfit(source: _Source, message: str) -> DataError:
    """Return the error of a key that is unknown, lacks, or has a value of another kind."""
    where = re.search(r" - at `\$(?:\.classes\[(\d+)\])?\.?(\w*)", message)
    index, key = (where[1], where[2]) if where else (None, "")
    unknown = re.search(r"unknown field `(\w+)`", message)
    return source.error(
        f"{printable(message)}; a class has name, folders or grades, and grade; the file has "
        "classes, ordinal, scale and table",
        int(index) if index else None,
        unknown[1] if unknown else key,
    )


def _labels(document: Document, source: _Source) -> LabelMap:
    classes = document.classes
    names = tuple(
        checked_label(each.name, source.place(index, "name")) for index, each in enumerate(classes)
    )
    _require_once(source, "class", "name", [(name,) for name in names])
    folders: tuple[tuple[str, ...], ...] = ()
    grades: _Grades
    if any(each.grades for each in classes):
        grades, scale = _kellgren_lawrence(document, source), KELLGREN_LAWRENCE
    else:
        folders = _folders(document, names, source)
        grades, scale = _grades(document, source), ""
    if document.ordinal:
        _require_order(source, grades)
    if document.scale:
        scale = checked_label(document.scale, source.place(key="scale"), "scale")
        if not grades:
            raise source.error("a scale is of grades: give each class its grade", key="scale")
    name = printable(source.path.name)
    return LabelMap(name, names, grades, folders, document.ordinal, scale)


def _folders(
    document: Document, names: Sequence[str], source: _Source
) -> tuple[tuple[str, ...], ...]:
    """Return the folders of each class, or the labels that a table has for it."""
    folders = tuple(
        tuple(
            checked_label(folder, source.place(index, "folders"), "folder")
            for folder in each.folders or (names[index],)
        )
        for index, each in enumerate(document.classes)
    )
    _require_once(source, "folder", "folders", folders)
    return folders


def _kellgren_lawrence(document: Document, source: _Source) -> _Grades:
    """Return the grades of each class, of a scale whose folders are known however spelt."""
    grades = tuple(each.grades for each in document.classes)
    for index, each in enumerate(document.classes):
        if not each.grades or not {*each.grades} <= {*GRADES}:
            raise source.error(
                f"grades are those of {KELLGREN_LAWRENCE}, 0 to 4, and either all classes have "
                "them or none: another scale's are folders with a grade",
                index,
                "grades",
            )
        if each.folders or each.grade is not None:
            key = "folders" if each.folders else "grade"
            raise source.error(f"a class of grades has no {key}: leave it out", index, key)
    _require_once(source, "grade", "grades", grades)
    return grades


def _grades(document: Document, source: _Source) -> _Grades:
    """Return the grade of each class; nothing where classes have none."""
    given = [(index, each.grade) for index, each in enumerate(document.classes)]
    if all(grade is None for _, grade in given):
        return ()
    grades = []
    for index, grade in given:
        if grade is None or not abs(grade) <= _LARGEST:
            message = f"all classes have a grade, a number up to {_LARGEST:g}, or none has"
            raise source.error(message, index, "grade")
        grades.append((grade,))
    return tuple(grades)


def _require_order(source: _Source, grades: _Grades) -> None:
    means = [sum(each) / len(each) for each in grades]
    for index in range(1, len(means)):
        if means[index] <= means[index - 1]:
            raise source.error(
                "the grade is not above that of the class before: put them in order, or leave "
                "out ordinal",
                index,
                "grades?",  # the one or the other
            )


def _require_once(source: _Source, what: str, key: str, values: Sequence[Sequence[object]]) -> None:
    """Check that no value occurs twice, in one class or in two."""
    seen: set[object] = set()
    for index, each in enumerate(values):
        for value in each:
            if value in seen:
                raise source.error(f"the {what} {value!r} is there twice", index, key)
            seen.add(value)

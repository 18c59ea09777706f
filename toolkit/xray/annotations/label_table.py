"""A table of labels: which file is of which class, patient and part."""

from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import DataError, numbered, printable
from toolkit.xray.annotations.tables import Row, read_rows, relative_path
from toolkit.xray.folders import PARTS, part_called
from toolkit.xray.labels import LabelMap, checked_label, in_counting_order

_NEEDED = ("file", "label")
_MORE = ("patient", "part")


@dataclass(frozen=True)
class LabelledFile:
    """A row of the table.

    Attributes:
        file: its path below the data folder, with `/`.
        label: of its class, or of a grade or folder that stands for one.
        patient: whose it is; None where the table does not say it.
        part: `train`, `val` or `test`; None where the table does not say it.
        where: the table and the line, for messages.
    """

    file: str
    label: str
    patient: str | None
    part: str | None
    where: str


@dataclass(frozen=True)
class LabelTable:
    """What a CSV file says of X-rays.

    Attributes:
        path: of the CSV file.
        rows: of all files that it names, each once.
    """

    path: Path
    rows: tuple[LabelledFile, ...]

    @property
    def names_patients(self) -> bool:
        """Whether it says whose the X-rays are."""
        return self.rows[0].patient is not None

    def labels(self) -> LabelMap:
        """Return the labels that occur as classes, in no order; numbers in theirs.

        Raises:
            DataError: there are fewer than two.
        """
        names = in_counting_order({row.label for row in self.rows})
        if len(names) < 2:
            raise DataError(
                f"{self.path} names {numbered(len(names), 'label')}: a model needs two or more"
            )
        return LabelMap(printable(self.path.name), names, (), ordinal=False)


def read_label_table(path: Path) -> LabelTable:
    """Read a table of the columns `file` and `label`, and maybe `patient` and `part`.

    Raises:
        DataError: it cannot be read, or a row cannot be used; its line is named.
    """
    rows: dict[str, LabelledFile] = {}
    for row in read_rows(path, "--labels", _NEEDED, _MORE):
        found = _labelled_file(row)
        first = rows.setdefault(found.file, found)
        if first is not found:
            raise DataError(
                f"{found.where}: {printable(found.file)} is there already: {first.where}"
            )
    if not rows:
        raise DataError(f"{path} names no file")
    return LabelTable(path, tuple(rows.values()))


def _labelled_file(row: Row) -> LabelledFile:
    given, where = row.values, row.where
    part = None
    if "part" in given:
        part = part_called(given["part"])
        if part is None:
            raise DataError(
                f"{where}: the part '{printable(given['part'], 40)}' is none of "
                f"{', '.join(PARTS)}: give one in every line, or leave the column out"
            )
    return LabelledFile(
        file=relative_path(given["file"], where),
        label=checked_label(given["label"], where),
        patient=checked_label(given["patient"], where, "patient") if "patient" in given else None,
        part=part,
        where=where,
    )

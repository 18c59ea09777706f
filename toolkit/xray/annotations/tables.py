"""Tables that people make in spreadsheets: CSV files with a first line of names."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.errors import DataError, numbered, printable


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        where: the file and the line, for messages.
        values: by column; of a column that the table lacks there is none.
    """

    where: str
    values: dict[str, str]


def read_text(path: Path, option: str) -> str:
    """Return the text of a file that an option of the command line named.

    Raises:
        DataError: it cannot be read, or is not UTF-8 text.
    """
    try:
        # A spreadsheet's mark at the beginning is not part of the first column's name.
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"cannot read {option} {path}: {reason}") from None


def read_rows(path: Path, option: str, needed: Sequence[str], more: Sequence[str]) -> list[Row]:
    """Return the rows of a table; empty lines and other columns are passed over.

    Commas, semicolons and tabs separate, whichever the first line has most of. A byte order mark,
    values in quotes, and ends of lines of any system are taken.

    Args:
        path: of the file.
        option: of the command line that named it.
        needed: columns that must be there.
        more: columns that may be.

    Raises:
        DataError: it cannot be read, lacks a column or has one twice, or a row has more values
            than there are names.
    """
    text = read_text(path, option)
    first = next(iter(text.splitlines()), "")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        columns = [column.strip().lower() for column in next(lines, [])]
        return list(_rows(path, columns, lines, needed, more))
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}") from None


def _rows(
    path: Path,
    columns: list[str],
    lines: Any,
    needed: Sequence[str],
    more: Sequence[str],
) -> Iterator[Row]:
    if any(columns.count(name) != 1 for name in needed):
        raise DataError(
            f"{path}, line 1: it needs a first line that names the columns {' and '.join(needed)}"
        )
    if twice := [name for name in more if columns.count(name) > 1]:
        raise DataError(f"{path}, line 1: the column {twice[0]} is there twice")
    wanted = {name: columns.index(name) for name in (*needed, *more) if name in columns}
    begin = lines.line_num + 1
    for values in lines:
        where, begin = f"{path}, line {begin}", lines.line_num + 1
        given = [value.strip() for value in values]
        if not any(given):
            continue
        if any(given[len(columns) :]):
            raise DataError(
                f"{where}: {numbered(len(given), 'value')} where there are {len(columns)} columns: "
                "put what holds a comma in quotes"
            )
        given += [""] * (len(columns) - len(given))
        yield Row(where, {name: given[place] for name, place in wanted.items()})


def relative_path(text: str, where: str) -> str:
    r"""Return the path of a file below the data folder; `\` separates folders as `/` does.

    Raises:
        DataError: it is none, or leads out of the folder.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if not path.parts:
        raise DataError(f"{where}: no file is named")
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise DataError(
            f"{where}: {printable(text, 200)} leads out of the data folder: name files from it on"
        )
    return path.as_posix()

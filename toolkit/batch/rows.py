"""What a run writes: a row for each file, in Parquet, CSV or JSON lines."""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from toolkit.errors import BatchError, UsageError
from toolkit.extras import require
from toolkit.files import replacing
from toolkit.model.answer import Answer

Row = tuple[Any, ...]
"""The values of one file, in the order of `schema`; without an answer, the first and last two."""
Tally = dict[str, dict[str, int]]
"""How many rows there are with each value of `label` and of `error`."""
FORMULA = r"^[\p{Z}\p{C}]|^[^\p{L}\p{N}]*[=+\-" + "\N{MINUS SIGN}@]"
"""What a spreadsheet may take for a formula, in normal form KC; the page's CSV has the same."""
_PARTS_IN_A_GROUP = 400
_ROWS_AT_ONCE = 4096
_UNANSWERED = 4
_LACKING_IN_SOME = frozenset({"expected_grade", "decision"})
_FORMAT = {"compression": "zstd", "write_page_checksum": True}


def schema(
    classes: Sequence[str], metadata: dict[str, str], lacking: Collection[str] = ("decision",)
) -> Any:
    """Return the Arrow schema of a model's rows.

    Columns: `path`, relative to the folder; `sha256` of the file; `class`, `label`, and a
    `probability_...` for each class; `expected_grade` and `decision`, where they are not `lacking`
    since the model gives none; `abstain` and `in_scope`; for a file without an answer `error`, a
    short stable word, and `detail`.
    """
    pa = require("pyarrow", "batch")
    kinds = {int: pa.int32(), str: pa.string(), float: pa.float64(), bool: pa.bool_()}
    columns = {"path": pa.string(), "sha256": pa.string()}
    names = zip(get_type_hints(Answer).values(), Answer.__struct_encode_fields__, strict=True)
    for kind, name in names:
        if name == "probabilities":
            columns |= dict.fromkeys(probability_names(classes), pa.float32())
        elif name not in lacking:
            columns[name] = kinds[(get_args(kind) or (kind,))[0]]
    columns |= {"error": pa.string(), "detail": pa.string()}
    return pa.schema(list(columns.items()), {**metadata, "classes": json.dumps(classes)})


def probability_names(classes: Sequence[str]) -> list[str]:
    """Return a column's name for each class: of its label, or of its number if labels clash."""
    names = [re.sub(r"\W+", "_", label) for label in classes]
    if len(set(names)) < len(names):
        names = [str(index) for index in range(len(classes))]
    return [f"probability_{name}" for name in names]


def answered(path: str, sha256: str, answer: Answer) -> Row:
    """Return the row of an X-ray with what is said of it."""
    values: list[Any] = []
    for name in Answer.__struct_fields__:
        value = getattr(answer, name)
        if name == "probabilities":
            values += value
        elif name not in _LACKING_IN_SOME or value is not None:
            values.append(value)
    return (path, sha256, *values, None, None)


def failed(path: str, sha256: str | None, code: str, detail: str) -> Row:
    """Return the row of a file without an answer."""
    return (path, sha256, code, detail)


def write_part(rows: Sequence[Row], schema: Any, path: Path) -> None:
    """Write the rows of one shard, whole or not at all.

    Raises:
        UsageError: the folder cannot be written.
    """
    pa, parquet = require("pyarrow", "batch"), require("pyarrow.parquet", "batch")
    nothing = [None] * (len(schema) - _UNANSWERED)
    whole = [row if len(row) == len(schema) else (*row[:2], *nothing, *row[2:]) for row in rows]
    columns = zip(zip(*whole, strict=True), schema, strict=True)
    arrays = [pa.array(values, field.type) for values, field in columns]
    with replacing(path) as temporary:
        parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), temporary, **_FORMAT)


def format_of(out: Path) -> str:
    """Return the suffix of a file that rows can be written to, a key of `_WRITERS`.

    Raises:
        UsageError: it has another.
    """
    suffix = out.suffix.lower()
    if suffix not in _WRITERS:
        raise UsageError(
            f"--out {out} does not say what to write: end it in {', '.join(_WRITERS)}, or give - "
            "for JSON lines on stdout"
        )
    return suffix


def join(
    parts: Iterable[Path], schema: Any, temporary: Path, on_joined: Callable[[int], None]
) -> Tally:
    """Write the rows of all parts, in order, to one file, and count them.

    Args:
        parts: as `write_part` made them.
        schema: theirs.
        temporary: the file to write; its suffix is its format.
        on_joined: hears now and then how many rows are written.

    Raises:
        BatchError: a part cannot be read.
    """
    pa = require("pyarrow", "batch")
    parts, rows = iter(parts), 0
    found: dict[str, Counter[str]] = {"label": Counter(), "error": Counter()}
    with _WRITERS[format_of(temporary)](temporary, schema) as write:
        while group := list(islice(parts, _PARTS_IN_A_GROUP)):
            table = pa.concat_tables([_read(part) for part in group])
            write(table)
            for name, counts in found.items():
                for each in table.column(name).drop_null().value_counts().to_pylist():
                    counts[each["values"]] += each["counts"]
            rows += len(table)
            on_joined(rows)
    return {name: dict(counts) for name, counts in found.items()}


def is_of(path: Path, schema: Any, rows: int) -> bool:
    """Return whether `path` is a file of so many rows with that schema and its metadata."""
    try:
        with require("pyarrow.parquet", "batch").ParquetFile(path) as file:
            found = file.schema_arrow
            return bool(
                found.equals(schema, check_metadata=True) and file.metadata.num_rows == rows
            )
    except _damages():
        return False


def is_whole(part: Path, schema: Any, rows: int) -> bool:
    """Return whether a part is of that schema and size, and can be read to its end."""
    try:
        return part.is_file() and is_of(part, schema, rows) and len(_read(part)) == rows
    except BatchError:
        return False


def _read(part: Path) -> Any:
    parquet = require("pyarrow.parquet", "batch")
    try:
        with parquet.ParquetFile(part, page_checksum_verification=True) as file:
            return file.read()
    except _damages() as error:
        raise BatchError(f"{part} is damaged: the same command does its rows again") from error


def _damages() -> tuple[type[Exception], ...]:
    """What is raised of a damaged file; one that asks for endless memory is one, too."""
    pa = require("pyarrow", "batch")
    return pa.ArrowException, OSError, ValueError, MemoryError


@contextmanager
def _parquet(path: Path, schema: Any) -> Iterator[Callable[[Any], None]]:
    parquet = require("pyarrow.parquet", "batch")
    with parquet.ParquetWriter(path, schema, **_FORMAT) as writer:
        yield lambda table: writer.write_table(table, row_group_size=len(table))


@contextmanager
def _csv(path: Path, schema: Any) -> Iterator[Callable[[Any], None]]:
    with require("pyarrow.csv", "batch").CSVWriter(path, schema) as writer:
        yield lambda table: writer.write_table(_without_formulas(table))


def _without_formulas(table: Any) -> Any:
    """Return a table whose texts no spreadsheet takes for formulas: those begin with a quote."""
    pa, compute = require("pyarrow", "batch"), require("pyarrow.compute", "batch")
    columns = table.columns
    for index, column in enumerate(columns):
        if column.type == pa.string():
            normal = compute.utf8_normalize(column, "NFKC")
            text = compute.binary_join_element_wise("'", column, "")
            columns[index] = compute.if_else(
                compute.match_substring_regex(normal, FORMULA), text, column
            )
    return pa.Table.from_arrays(columns, schema=table.schema)


@contextmanager
def _lines(path: Path, _: Any) -> Iterator[Callable[[Any], None]]:
    def write(table: Any) -> None:
        # A few rows at a time: as Python's values they take much memory.
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            stream.write(msgspec.json.Encoder().encode_lines(batch.to_pylist()))

    with path.open("wb") as stream:
        yield write


_WRITERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _lines}

"""Which X-rays are of one patient: by a table, a pattern, DICOM's tag, a folder or the name."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

from toolkit.errors import DataError, UsageError, is_text, numbered, printable
from toolkit.xray.annotations.tables import read_rows
from toolkit.xray.dicom_tags import SNIFFED, is_dicom, patient_key
from toolkit.xray.limits import MAX_BYTES

if TYPE_CHECKING:
    from toolkit.xray.folders import XrayFile

_WORDS: Final = (
    "left|right|links|rechts|gauche|droite?|izquierd[ao]|derech[ao]|izq|der|sin|dex|[sd]x"
)
_SIDES: Final = rf"(?:{_WORDS}|[lr][tk]?)(?:[\W_]?knee)?|(?:left|right)[\W_]?side"
_SIDE: Final = re.compile(
    # on its own between separators, as in 7_L, left-7 and 7.R.1; onto a number, as in 7l and 7L_2
    rf"(?:^|(?<=[\W_]))(?i:{_SIDES})(?=$|[\W_])|(?<=\d)(?i:{_SIDES})(?=$|[\W_])"
    # before a number, a letter in capitals only: L7, 7_R1; not 7_l1
    r"|(?:^|(?<=[\W_\d]))(?:L|R|(?i:left|right))(?=\d)|(?<=(?i:knee))(?i:left|right|[lr])(?=$|[\W_])"
)
# else onto a word, in capitals only: caseR, KneeL_7; not Paul, nor the LATERAL of 7_L_LATERAL
_SIDE_OF_WORD: Final = re.compile(
    r"(?<=.)(?:L|R|Left|Right|LEFT|RIGHT)$|(?<=[a-z])(?:L|R|Left|Right)(?=[\W_])"
)
_NUMBERED: Final = re.compile(r"(?P<stem>.*[^\W_])[\W_]+(?P<number>\d+)[)\]]?")
_SEPARATORS: Final = "_-. ,;"
_SHOWN: Final = 3
BY_TABLE: Final = "the table"
"""What told patients apart where a table did."""


@dataclass(frozen=True)
class PatientRule:
    """What the user says of how patients are told apart; without either, files show it.

    Attributes:
        pattern: a regular expression whose only group finds the patient in an X-ray's name.
        groups: a table with the columns `file` and `patient`.
    """

    pattern: str | None = None
    groups: Path | None = None

    def __post_init__(self) -> None:
        """Check the pattern.

        Raises:
            UsageError: both are given, or the pattern is none or has not one group.
        """
        if self.pattern is None:
            return
        if not is_text(self.pattern):
            raise UsageError(f"--patients {printable(self.pattern)!r} is no text in UTF-8")
        if self.groups is not None:
            raise UsageError("--patients and --groups both say who is who: give one of them")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise UsageError(f"--patients {self.pattern!r} is no pattern: {error}") from None
        if groups != 1:
            raise UsageError(
                f"--patients {self.pattern!r} has {groups} groups: put the patient, and nothing "
                r"else, in round brackets, such as '^(\d+)_'"
            )


BY_FILES: Final = PatientRule()
"""Nothing is said: the files show it."""


@dataclass(frozen=True)
class Patients:
    """The patient of each X-ray.

    Attributes:
        keys: what patients are told apart by, in the order of the X-rays. A `PatientID` is there
            as a hash.
        sources: of how many X-rays it came from where, in words.
        pair: the names of two X-rays of one patient, if there are any.
    """

    keys: tuple[str, ...]
    sources: dict[str, int]
    pair: tuple[str, str] | None

    @property
    def count(self) -> int:
        """How many patients there are."""
        return len(set(self.keys))

    def description(self) -> str:
        """Return in one line how patients were told apart, with an example."""
        how = ", ".join(
            f"{source} ({numbered(count, 'X-ray')})" if len(self.sources) > 1 else source
            for source, count in self.sources.items()
        )
        example = f": {self.pair[0]} and {self.pair[1]} are of one" if self.pair else ""
        return f"{numbered(self.count, 'patient')}, told apart by {how}{example}"

    def warning(self) -> str | None:
        """Return what to mind where no two X-rays were found to belong together."""
        if self.pair or len(self.keys) < 2:
            return None
        return (
            "no two X-rays were found to be of one patient: if patients have several, say which "
            "with --patients REGEX or --groups FILE.csv, or give each a folder"
        )


def identify_patients(
    files: Sequence["XrayFile"], root: Path, rule: PatientRule = BY_FILES
) -> Patients:
    """Find the patient of each X-ray.

    What a table of labels or the rule says holds for all of them. Without either, it is for each
    file the first of: DICOM's `PatientID`, the folder below the grade's, the name without its side.

    Args:
        files: X-rays of the folder `root`.
        root: the data folder.
        rule: what the user says of it.

    Raises:
        DataError: the table cannot be used, or table or pattern leave an X-ray out.
        UsageError: both a table of labels and the rule say it.
    """
    names = [file.name for file in files]
    told = [file.patient for file in files if file.patient is not None]
    if told:
        if rule != BY_FILES:
            raise UsageError(
                "the column patient of --labels says who is who: leave out --patients and --groups"
            )
        return _patients(names, told, [BY_TABLE] * len(files))
    if rule.groups is not None:
        return _patients(names, _by_table(files, root, rule.groups), [BY_TABLE] * len(files))
    if rule.pattern is not None:
        return _patients(names, _by_pattern(files, rule.pattern), ["the pattern"] * len(files))
    found = [
        _by_file(file, key)
        for file, key in zip(files, _name_keys([file.path_stem for file in files]), strict=True)
    ]
    return _patients(names, [key for key, _ in found], [source for _, source in found])


def _by_file(file: "XrayFile", name_key: str) -> tuple[str, str]:
    """Return the patient of a file, and what shows it."""
    if key := _patient_id(file.path):
        return key, "PatientID"
    folder = file.name.rpartition("/")[0].partition("/")[0]
    if folder and not _SIDE.fullmatch(folder):
        return normalize("NFC", folder), "folder"
    return name_key, "name"


def by_name(names: Sequence[str]) -> Patients:
    """Find the patient of each X-ray by its name alone.

    It is the name without its side: 9003175 in 9003175L, left_9003175 and 9003175-R. Of names
    that end in 1 and 2, such as 9003175_1, the number goes as well where both are there and no
    other number is.
    """
    return _patients(names, _name_keys(names), ["name"] * len(names))


def _name_keys(names: Sequence[str]) -> list[str]:
    keys = [_without_side(name) for name in names]
    matches = [_NUMBERED.fullmatch(key) for key in keys]
    numbers: dict[str, set[str]] = defaultdict(set)
    for match in filter(None, matches):
        numbers[match["stem"]].add(match["number"])
    paired = {stem for stem, found in numbers.items() if found == {"1", "2"}}
    return [
        match["stem"] if match and match["stem"] in paired else key
        for key, match in zip(keys, matches, strict=True)
    ]


def _without_side(name: str) -> str:
    """Return a name without its last side, if it has one beside something else."""
    name = normalize("NFC", name)
    match = next(
        (found[-1] for side in (_SIDE, _SIDE_OF_WORD) if (found := [*side.finditer(name)])), None
    )
    if match is None:
        return name
    before, after = name[: match.start()].rstrip(_SEPARATORS), name[match.end() :]
    if not before:
        return after.lstrip(_SEPARATORS) or name
    return f"{before}{'_' * after[:1].isalnum()}{after}"


def _patients(names: Sequence[str], keys: list[str], sources: list[str]) -> Patients:
    first: dict[str, str] = {}
    pairs = (
        (first[key], name)
        for key, name in zip(keys, names, strict=True)
        if first.setdefault(key, name) != name
    )
    return Patients(tuple(keys), dict(Counter(sources)), next(pairs, None))


def _patient_id(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            head = stream.read(SNIFFED)
            return patient_key(head + stream.read(MAX_BYTES)) if is_dicom(head) else None
    except (OSError, ValueError):
        return None  # it is refused, with the reason, where pixels are read


def _by_pattern(files: Sequence["XrayFile"], pattern: str) -> list[str]:
    found = [re.search(pattern, file.name) for file in files]
    keys = [match[1] or "" if match else "" for match in found]
    _require_all(files, keys, f"--patients {pattern!r} finds no patient in")
    return keys


def _by_table(files: Sequence["XrayFile"], root: Path, table: Path) -> list[str]:
    rows = _table(table)
    keys = []
    for file in files:
        relative = file.path.relative_to(root)
        spellings = (relative.as_posix(), relative.name, file.name, file.path_stem)
        composed = (normalize("NFC", name) for name in spellings)
        keys.append(next((rows[name] for name in composed if name in rows), ""))
    _require_all(files, keys, f"{table} has no row for")
    return keys


def _table(path: Path) -> dict[str, str]:
    """Return the patient of each file that a table names.

    Raises:
        DataError: it cannot be read, lacks a column or a value, or contradicts itself.
    """
    rows: dict[str, str] = {}
    for row in read_rows(path, "--groups", ("file", "patient"), ()):
        file = normalize("NFC", row.values["file"]).replace("\\", "/")
        patient = row.values["patient"]
        if not patient:
            raise DataError(f"{row.where}: a file and its patient are wanted")
        if rows.setdefault(file, patient) != patient:
            raise DataError(f"{row.where}: {file} is of another patient above")
    return rows


def _require_all(files: Sequence["XrayFile"], keys: list[str], what: str) -> None:
    missing = [file.path for file, key in zip(files, keys, strict=True) if not key]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(f"{what} {', '.join(map(str, missing[:_SHOWN]))}{more}")

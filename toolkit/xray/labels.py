"""Label maps: which grades, or which folders, make which class."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.errors import DataError, UsageError, printable

GRADES = (0, 1, 2, 3, 4)
KELLGREN_LAWRENCE = "Kellgren-Lawrence"
FOLDERS = "folders"
"""What the map of classes that are folders is called."""
LONGEST = 100
"""Characters of a label."""
# Control characters, half a surrogate pair, and what ends a line or a paragraph.
_UNFIT = frozenset(("Cc", "Cs", "Zl", "Zp"))


@dataclass(frozen=True)
class LabelMap:
    """Classes, with what of the data makes each.

    Attributes:
        name: how the command line calls the map: a name, or that of the file it was read from.
        classes: the label of each class.
        grades: of each class, the grades that it stands for; empty where there are none. Those of
            the Kellgren-Lawrence scale are 0 to 4, and grades in no class are dropped.
        folders: of each class, the folders that hold it. Where empty, a folder is a grade of
            Kellgren-Lawrence, or where there are no grades, called as its class is.
        ordinal: whether classes are in the order of what they stand for. It counts together with
            grades only; manifests of before labels were data do not say it.
        scale: what the grades are of.
    """

    name: str
    classes: tuple[str, ...]
    grades: tuple[tuple[int | float, ...], ...]
    folders: tuple[tuple[str, ...], ...] = ()
    ordinal: bool = True
    scale: str = KELLGREN_LAWRENCE

    @property
    def graded(self) -> bool:
        """Whether there is a scale: an expected grade, and a kappa that minds the distance."""
        return self.ordinal and bool(self.grades)

    @property
    def scale_grades(self) -> tuple[tuple[int | float, ...], ...]:
        """The grades of each class on the scale, where there is one."""
        return self.grades if self.graded else ()

    @property
    def folders_are_grades(self) -> bool:
        """Whether a folder is read as a grade of Kellgren-Lawrence, however that is spelt."""
        return bool(self.grades) and not self.folders

    def class_of(self, grade: int) -> int | None:
        """Return the class index of a grade, or None where the map drops it."""
        found = (index for index, grades in enumerate(self.grades) if grade in grades)
        return next(found, None)

    def class_named(self, folder: str) -> int | None:
        """Return the class index of a folder, or of a label in a table; None of another."""
        names = self.folders or tuple((name,) for name in self.classes)
        found = (index for index, called in enumerate(names) if folder in called)
        return next(found, None)


_SEVERITIES = ("minimal", "moderate", "severe")
LABEL_MAPS = {
    labels.name: labels
    for labels in (
        LabelMap("study", ("none", *_SEVERITIES), ((0,), (2,), (3,), (4,))),
        LabelMap("five", ("none", "doubtful", *_SEVERITIES), ((0,), (1,), (2,), (3,), (4,))),
        LabelMap("merge01", ("none or doubtful", *_SEVERITIES), ((0, 1), (2,), (3,), (4,))),
    )
}


def label_map(name: str) -> LabelMap:
    """Return the label map called `name`.

    Raises:
        UsageError: there is no such map.
    """
    try:
        return LABEL_MAPS[name]
    except KeyError:
        known = ", ".join((*LABEL_MAPS, FOLDERS))
        raise UsageError(
            f"--labels '{printable(name)}' is not one of {known}, and no FILE.toml or FILE.csv"
        ) from None


def checked_label(text: str, where: str, what: str = "label") -> str:
    """Return what a class or a patient is called without the space around it.

    Args:
        text: as it was read.
        where: it was read, for the message: a file and a line, or a folder.
        what: it is.

    Raises:
        DataError: it is empty, too long, or cannot be written as one line of text.
    """
    name = text.strip()
    if not name:
        raise DataError(f"{where}: a {what} is empty: give it a name")
    if len(name) > LONGEST:
        raise DataError(
            f"{where}: the {what} '{printable(name, 20)}...' has {len(name)} characters: it may "
            f"have {LONGEST}"
        )
    if any(unicodedata.category(each) in _UNFIT for each in name):
        raise DataError(
            f"{where}: the {what} '{printable(name)}' holds what is no text: a control character, "
            "or half of one"
        )
    return name


def in_counting_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names in the order in which people count, 10 after 9."""
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", name)
    # Of 1 and 01 the order is not left to chance.
    return [(int(each), "") if each.isdecimal() else (-1, each) for each in parts], name

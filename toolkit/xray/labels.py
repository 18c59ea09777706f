"""Label maps: which Kellgren-Lawrence grades, or which folders, make which class."""

from dataclasses import dataclass

from toolkit.errors import UsageError

GRADES = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class LabelMap:
    """Classes, in the order of their severity where each is a set of grades.

    Attributes:
        name: how the command line calls the map.
        classes: the label of each class.
        grades: the Kellgren-Lawrence grades (0 to 4) of each class, in the same order; grades in
            no class are dropped. Empty where classes are folders, in no order.
    """

    name: str
    classes: tuple[str, ...]
    grades: tuple[tuple[int, ...], ...]

    def class_of(self, grade: int) -> int | None:
        """Return the class index of a grade, or None where the map drops it."""
        found = (index for index, grades in enumerate(self.grades) if grade in grades)
        return next(found, None)


_SEVERITIES = ("minimal", "moderate", "severe")
FOLDERS = "folders"
"""What the map of classes that are folders is called."""
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
        known = ", ".join(LABEL_MAPS)
        raise UsageError(f"no label map is called {name!r}: choose one of {known}") from None

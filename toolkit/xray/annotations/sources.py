"""What the command line says of the X-rays of a folder: their classes and their patients."""

from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.errors import DataError
from toolkit.xray.annotations.label_file import LabelFile, read_label_file
from toolkit.xray.annotations.label_table import LabelTable, read_label_table
from toolkit.xray.annotations.patients import PatientRule
from toolkit.xray.folders import folder_labels
from toolkit.xray.labels import FOLDERS, LabelMap, label_map

_FOLDERS = LabelMap(FOLDERS, (), (), ordinal=False)
"""Classes are folders that are called as they are, whichever there are."""


@dataclass(frozen=True)
class Annotations:
    """What is said of X-rays beside what their folder shows.

    Attributes:
        labels: what `--labels` says the classes are; None where it says nothing of them.
        file: that they were read from, if one was.
        table: which file is of which class, if a table says so.
        groups: the table of patients, if there is one.
    """

    labels: LabelMap | None = None
    file: LabelFile | None = None
    table: LabelTable | None = None
    groups: Path | None = None

    def labels_in(self, folder: Path) -> LabelMap:
        """Return what the classes of a data folder are; by its own folders where nothing says it.

        Raises:
            DataError: there are fewer than two classes, or the folder lacks one that is named.
        """
        self._require_folders(folder)
        if self.labels and self.labels.classes:
            return self.labels
        return self.table.labels() if self.table else folder_labels(folder)

    def labels_for(self, model: LabelMap, folder: Path) -> LabelMap:
        """Return a model's labels, with what of a data folder makes each class.

        Raises:
            DataError: others are said to be the classes, or the folder lacks one that is named.
        """
        self._require_folders(folder)
        if self.labels is None:
            return model
        if self.labels == _FOLDERS:
            return replace(self.labels, classes=model.classes)
        if self.labels.classes != model.classes:
            raise DataError(
                f"the model's classes are {', '.join(model.classes)}, and those of --labels "
                f"{', '.join(self.labels.classes)}: give the same, in the same order"
            )
        return self.labels

    def rule(self, pattern: str | None) -> PatientRule:
        """Return how patients are told apart: by a table, or else by a training's pattern."""
        told = self.groups or (self.table and self.table.names_patients)
        return PatientRule(None if told else pattern, self.groups)

    def _require_folders(self, folder: Path) -> None:
        if self.file and not self.table:
            self.file.require_folders(folder)


NOTHING = Annotations()


def read_annotations(labels: str | None, groups: Path | None = None) -> Annotations:
    """Return what `--labels` and `--groups` say.

    Args:
        labels: the name of a label map, `folders`, or the path of a TOML or CSV file.
        groups: a table of patients.

    Raises:
        DataError: the file cannot be read or used.
        UsageError: it is neither.
    """
    if labels is None:
        return Annotations(groups=groups)
    suffix = Path(labels).suffix.lower()
    if labels == FOLDERS:
        return Annotations(_FOLDERS, groups=groups)
    if suffix == ".csv":
        return Annotations(table=read_label_table(Path(labels)), groups=groups)
    if suffix == ".toml":
        file = read_label_file(Path(labels))
        table = read_label_table(file.table) if file.table else None
        return Annotations(file.labels, file, table, groups)
    return Annotations(label_map(labels), groups=groups)

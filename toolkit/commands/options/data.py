"""What `--data` and the options beside it mean to the commands that train."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toolkit.console import Console
from toolkit.errors import UsageError, numbered
from toolkit.train.dataset import (
    Dataset,
    generated,
    load_folder,
    require_agreement,
    require_classes,
    require_patients,
)
from toolkit.xray.annotations.patients import BY_FILES, PatientRule
from toolkit.xray.annotations.sources import Annotations, read_annotations
from toolkit.xray.labels import FOLDERS, LabelMap

GENERATED_COUNT = 800


@dataclass(frozen=True)
class DataChoice:
    """What the command line says of the X-rays to train with.

    Attributes:
        folder: of them; None for generated ones.
        labels: what the classes are, as `--labels` takes it: see `read_annotations`.
        split: None for the one that fits the preset and the data.
        patients: a pattern that tells patients apart.
        groups: a table that does.
        allow_conflicts: whether an X-ray may be there under two classes.
        cache: folder of decoded pixels, as `toolkit.xray.bulk.read_files` takes it.
        own: whether a network of one's own is trained: its data are not taken to be graded.
    """

    folder: Path | None
    labels: str | None
    split: str | None
    patients: str | None
    groups: Path | None
    allow_conflicts: bool
    cache: Path | None
    own: bool

    @cached_property
    def annotations(self) -> Annotations:
        """What is said of the X-rays, read.

        Raises:
            DataError: a file of labels cannot be used.
            UsageError: they are none.
        """
        otherwise = FOLDERS if self.own and self.folder else "study"
        return read_annotations(self.labels or otherwise, self.groups)

    @cached_property
    def label_map(self) -> LabelMap:
        """What the classes are.

        Raises:
            DataError: the data's folders, or the labels of a table, are not two classes or more.
            UsageError: folders or a table of X-rays that are generated.
        """
        if self.folder:
            return self.annotations.labels_in(self.folder)
        said = self.annotations
        if said.table or not (said.labels and said.labels.folders_are_grades):
            raise UsageError(f"--labels {self.labels} is for X-rays of your own: give --data")
        return said.labels


def load(choice: DataChoice, preset: str, shape: tuple[int, ...], console: Console) -> Dataset:
    """Return the X-rays to train with, and say what was skipped and what is odd about them.

    Args:
        choice: what the command line says of them.
        preset: of the recipe.
        shape: of one X-ray, as the network takes it.
        console: where notices go.

    Raises:
        DataError: no X-ray can be used, training lacks a class, all are of one patient, or some
            are there under two classes.
        UsageError: a rule for generated X-rays, or two rules.
    """
    labels, rule = choice.label_map, PatientRule(choice.patients, choice.groups)
    split = choice.split or ("study" if preset == "study" else None)
    if choice.folder is None:
        if rule != BY_FILES:
            raise UsageError("--patients and --groups are for X-rays of your own: give --data")
        console.notice(f"no --data given: training on {GENERATED_COUNT} generated X-rays")
        dataset = generated(GENERATED_COUNT, labels, split, shape=shape)
    else:
        table = choice.annotations.table
        dataset = load_folder(
            choice.folder, labels, split, rule=rule, cache=choice.cache, shape=shape, table=table
        )
    if not labels.folders_are_grades:
        console.notice(f"{len(labels.classes)} classes: {', '.join(labels.classes)}")
    console.notices(
        dataset.skipped, f"skipped {numbered(len(dataset.skipped), 'file')} that cannot be read"
    )
    console.notice(dataset.patients.description())
    for warning in warnings_of(dataset):
        console.notice(f"warning: {warning}")
    require_patients(dataset)
    if choice.allow_conflicts:
        console.notices(dataset.conflicts, "... under two classes")
    else:
        require_agreement(dataset)
    require_classes(dataset, "train")
    return dataset


def warnings_of(dataset: Dataset) -> list[str]:
    """Return what the user should know of X-rays to train with, a line each."""
    found = [*dataset.left_out, *dataset.warnings]
    if warning := dataset.patients.warning():
        found.append(warning)
    if dataset.label_map.ordinal and not dataset.label_map.grades:
        found.append(
            "classes are in an order, and have no grades: there is no expected grade and no kappa"
        )
    if "val" not in dataset.parts:
        found.append(
            "there is no part val: the model will have no calibration, will never abstain, and "
            "cannot say whether an X-ray is in_scope"
        )
    return found

"""What `--data` means to the commands that train."""

from pathlib import Path

from toolkit.commands.options import Labels, Split
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
from toolkit.xray.folders import folder_labels
from toolkit.xray.labels import FOLDERS, LabelMap, label_map
from toolkit.xray.patients import BY_FILES, PatientRule

GENERATED_COUNT = 800


def labels_of(data: Path | None, labels: Labels | None, network: str | None) -> LabelMap:
    """Return what the classes of the data are.

    Args:
        data: a folder, or None for generated X-rays.
        labels: as asked for.
        network: of one's own, if any: its data are not taken to be graded.

    Raises:
        DataError: the data's folders are to be classes, and there are not two.
    """
    chosen = labels or (FOLDERS if network and data else "study")
    if chosen != FOLDERS:
        return label_map(chosen)
    if data is None:
        raise UsageError("--labels folders is for X-rays of your own: give --data")
    return folder_labels(data)


def load(
    data: Path | None,
    labels: LabelMap,
    split: Split | None,
    preset: str,
    rule: PatientRule,
    allow_conflicts: bool,
    console: Console,
    shape: tuple[int, ...],
    cache: Path | None = None,
) -> Dataset:
    """Return the X-rays to train with, and say what was skipped and what is odd about them.

    Args:
        data: a folder, or None for generated X-rays.
        labels: what the classes are.
        split: None for the one that fits the preset and the data.
        preset: of the recipe.
        rule: how patients are told apart.
        allow_conflicts: whether an X-ray may be there under two grades.
        console: where notices go.
        shape: of one X-ray, as the network takes it.
        cache: folder of decoded pixels, as `toolkit.xray.bulk.read_files` takes it.

    Raises:
        DataError: no X-ray can be used, training lacks a class, all are of one patient, or some
            are there under two grades.
        UsageError: a rule for generated X-rays.
    """
    chosen = split or ("study" if preset == "study" else None)
    if data is None:
        if rule != BY_FILES:
            raise UsageError("--patients and --groups are for X-rays of your own: give --data")
        console.notice(f"no --data given: training on {GENERATED_COUNT} generated X-rays")
        dataset = generated(GENERATED_COUNT, labels, chosen, shape=shape)
    else:
        dataset = load_folder(data, labels, chosen, rule=rule, cache=cache, shape=shape)
    if not labels.grades:
        console.notice(f"{len(labels.classes)} classes: {', '.join(labels.classes)}")
    console.notices(
        dataset.skipped, f"skipped {numbered(len(dataset.skipped), 'file')} that cannot be read"
    )
    console.notice(dataset.patients.description())
    for warning in warnings_of(dataset):
        console.notice(f"warning: {warning}")
    require_patients(dataset)
    if allow_conflicts:
        console.notices(dataset.conflicts, "... under two grades")
    else:
        require_agreement(dataset)
    require_classes(dataset, "train")
    return dataset


def warnings_of(dataset: Dataset) -> list[str]:
    """Return what the user should know of X-rays to train with, a line each."""
    found = [*dataset.left_out, *dataset.warnings]
    if warning := dataset.patients.warning():
        found.append(warning)
    if "val" not in dataset.parts:
        found.append(
            "there is no part val: the model will have no calibration, will never abstain, and "
            "cannot say whether an X-ray is in_scope"
        )
    return found

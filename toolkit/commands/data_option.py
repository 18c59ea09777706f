"""What `--data` means to the commands that train."""

from pathlib import Path

from toolkit.commands.options import Labels, Split
from toolkit.console import Console
from toolkit.errors import UsageError
from toolkit.train.dataset import (
    Dataset,
    generated,
    load_folder,
    require_agreement,
    require_classes,
    require_patients,
)
from toolkit.xray.labels import label_map
from toolkit.xray.patients import BY_FILES, PatientRule

GENERATED_COUNT = 800


def load(
    data: Path | None,
    labels: Labels,
    split: Split | None,
    preset: str,
    rule: PatientRule,
    allow_conflicts: bool,
    console: Console,
    cache: Path | None = None,
) -> Dataset:
    """Return the X-rays to train with, and say what was skipped and what is odd about them.

    Args:
        data: a folder, or None for generated X-rays.
        labels: the label map.
        split: None for the one that fits the preset and the data.
        preset: of the recipe.
        rule: how patients are told apart.
        allow_conflicts: whether an X-ray may be there under two grades.
        console: where notices go.
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
        dataset = generated(GENERATED_COUNT, label_map(labels), chosen)
    else:
        dataset = load_folder(data, label_map(labels), chosen, rule=rule, cache=cache)
    console.notices(dataset.skipped, f"skipped {len(dataset.skipped)} files that cannot be read")
    for line in dataset.left_out:
        console.notice(f"warning: {line}")
    console.notice(dataset.patients.description())
    for warning in _warnings(dataset):
        console.notice(f"warning: {warning}")
    require_patients(dataset)
    if allow_conflicts:
        console.notices(dataset.conflicts, "... are there under two grades")
    else:
        require_agreement(dataset)
    require_classes(dataset, "train")
    return dataset


def _warnings(dataset: Dataset) -> list[str]:
    found = [*dataset.warnings]
    if warning := dataset.patients.warning():
        found.append(warning)
    if "val" not in dataset.parts:
        found.append(
            "there is no part val: the model will have no calibration, will never abstain, and "
            "cannot say whether an X-ray is in_scope"
        )
    return found

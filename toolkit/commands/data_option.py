"""What `--data` means to the commands that train."""

from pathlib import Path

from toolkit.console import Console
from toolkit.dataset import Dataset, generated, load_folder, require_classes
from toolkit.labels import label_map

GENERATED_COUNT = 800


def load(data: Path | None, labels: str, split: str | None, console: Console) -> Dataset:
    """Return the X-rays to train with, and say what was skipped and what is odd about them.

    Args:
        data: a folder, or None for generated X-rays.
        labels: name of the label map.
        split: name of the split, or None for the one that fits the data.
        console: where notices go.

    Raises:
        DataError: no X-ray can be used, or training lacks a class.
    """
    if data is None:
        console.notice(f"no --data given: training on {GENERATED_COUNT} generated X-rays")
        dataset = generated(GENERATED_COUNT, label_map(labels), split)
    else:
        dataset = load_folder(data, label_map(labels), split)
    console.notices(dataset.skipped, f"skipped {len(dataset.skipped)} files that cannot be read")
    for warning in dataset.warnings:
        console.notice(f"warning: {warning}")
    require_classes(dataset, "train")
    return dataset

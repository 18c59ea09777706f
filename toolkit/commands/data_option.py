"""What `--data` means to the commands that train."""

from pathlib import Path

from toolkit.commands.options import Labels, Split
from toolkit.console import Console
from toolkit.train.dataset import Dataset, generated, load_folder, require_classes
from toolkit.xray.labels import label_map

GENERATED_COUNT = 800


def load(
    data: Path | None, labels: Labels, split: Split | None, preset: str, console: Console
) -> Dataset:
    """Return the X-rays to train with, and say what was skipped and what is odd about them.

    Args:
        data: a folder, or None for generated X-rays.
        labels: the label map.
        split: None for the one that fits the preset and the data.
        preset: of the recipe.
        console: where notices go.

    Raises:
        DataError: no X-ray can be used, or training lacks a class.
    """
    chosen = split or ("study" if preset == "study" else None)
    if data is None:
        console.notice(f"no --data given: training on {GENERATED_COUNT} generated X-rays")
        dataset = generated(GENERATED_COUNT, label_map(labels), chosen)
    else:
        dataset = load_folder(data, label_map(labels), chosen)
    console.notices(dataset.skipped, f"skipped {len(dataset.skipped)} files that cannot be read")
    for warning in dataset.warnings:
        console.notice(f"warning: {warning}")
    require_classes(dataset, "train")
    return dataset

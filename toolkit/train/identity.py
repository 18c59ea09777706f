"""What a training is: all that decides what it comes to."""

from dataclasses import asdict
from typing import Any

from toolkit.train.dataset import Dataset
from toolkit.train.recipes import Recipe


def identity(dataset: Dataset, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return all that decides what a training comes to, as plain values."""
    settings = asdict(recipe)
    constants = settings.pop("constants")
    record = dataset.record()
    return {
        **settings,
        **{name: repr(value) for name, value in constants.items()},
        "seed": seed,
        "labels": dataset.label_map.name,
        "split": dataset.split,
        "data": record.content_sha256,
        "parts": ", ".join(f"{part} {digest}" for part, digest in record.part_sha256.items()),
    }

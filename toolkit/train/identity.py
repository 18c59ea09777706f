"""What decides what a training comes to: one that goes on must have the same."""

from typing import Any

from toolkit.model.records import WeightsRecord
from toolkit.networks.loading import Definition
from toolkit.train.dataset import Dataset
from toolkit.train.distillation.targets import SoftTargets
from toolkit.train.recipes import Recipe, as_dict


def identity_of(
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    definition: Definition,
    targets: SoftTargets | None = None,
    weights: WeightsRecord | None = None,
) -> dict[str, Any]:
    """Return all that decides what a training comes to, as plain values."""
    settings = as_dict(recipe)
    constants = settings.pop("constants", {})
    data = dataset.identity()
    data["parts"] = ", ".join(f"{part} {digest}" for part, digest in data["parts"].items())
    constants = {name: repr(value) for name, value in constants.items()}
    return {
        **settings,
        **constants,
        # None where there is none: what was begun with one does not go on without.
        "network": definition.sha256 if definition.source else None,
        "teachers": targets.taught_by if targets else None,
        "unlabelled": targets.record.unlabelled_sha256 if targets else None,
        "weights": weights.sha256 if weights else None,
        "seed": seed,
        **data,
    }

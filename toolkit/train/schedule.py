"""What a recipe's words mean in numbers: class weights and the learning rate's course."""

import torch
from torch import Tensor

from toolkit.errors import UsageError
from toolkit.train.recipes import Recipe


def class_weights(kind: str, labels: Tensor, classes: int) -> Tensor | None:
    """Return the loss weight of each class, float32 (classes,), or None for equal ones.

    Args:
        kind: as in `Recipe.class_weights`.
        labels: of the training part in its order, int64 (N,).
        classes: number of classes C.
    """
    counts = torch.bincount(labels, minlength=classes).float()
    if kind == "none":
        return None
    if kind == "counts_first_seen":
        first_seen = list(dict.fromkeys(labels.tolist()))
        return counts[torch.tensor(first_seen)]
    if kind == "inverse_sqrt":
        weights = counts.rsqrt()
        return weights / weights.mean()
    if kind == "inverse":
        weights = counts.reciprocal()
        return weights / weights.mean()
    raise UsageError(f"no class weights are called {kind!r}")


def lr_factor(recipe: Recipe, epoch: int, progress: float) -> float:
    """Return what the highest learning rate is multiplied with.

    Args:
        recipe: whose schedule it is.
        epoch: the current one, from 0.
        progress: share of all steps already made, in [0, 1).
    """
    if recipe.schedule == "exponential":
        return float(recipe.lr_decay ** (epoch / 100))
    warm_up = 0.1
    if progress < warm_up:
        return 0.02 + 0.98 * progress / warm_up
    falling = (progress - warm_up) / (1 - warm_up)
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * falling, dtype=torch.float64))))

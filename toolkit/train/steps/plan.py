"""What each step of an epoch needs besides the weights: drawn before the epoch begins.

One row of numbers a step, so that a whole epoch is on a GPU with one copy. Whatever a row holds
is exact in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.train.recipes import Recipe
from toolkit.train.steps.augmentation import DRAWS, draw

_RATES = 2


class StepPlan(NamedTuple):
    """One step.

    Attributes:
        rate: what the highest learning rate is multiplied with, float64 ().
        newest: the share of the newest weights in the average, float32 ().
        batch: which X-rays, int64 (N,).
        draws: of `toolkit.train.steps.augmentation.draw`, float32 (8, N), or (0, N) without any.
    """

    rate: Tensor
    newest: Tensor
    batch: Tensor
    draws: Tensor


def plan_epoch(
    recipe: Recipe, indices: Tensor, generator: torch.Generator, epoch: int
) -> list[Tensor]:
    """Return a row for each step of an epoch, float64 (2 + N (1 + draws),), on the CPU.

    Args:
        recipe: of the training.
        indices: of all its X-rays, int64.
        generator: of the order and of the augmentation, on the CPU, so that both are the same on
            every device.
        epoch: the current one, from 0.
    """
    order = indices[torch.randperm(len(indices), generator=generator)]
    batches = torch.split(order, recipe.batch_size)
    rows = []
    for step, batch in enumerate(batches):
        progress = (epoch + step / len(batches)) / recipe.epochs
        rates = [lr_factor(recipe, epoch, progress)]
        rates += [_newest_share(recipe, epoch * len(batches) + step + 1)]
        parts = [torch.tensor(rates, dtype=torch.float64), batch.double()]
        if recipe.augmentation:
            parts.append(draw(len(batch), generator).double().flatten())
        rows.append(torch.cat(parts))
    return rows


def step_plan(row: Tensor, recipe: Recipe) -> StepPlan:
    """Return what a row of `plan_epoch` says, on its device."""
    draws = DRAWS if recipe.augmentation else 0
    count = (len(row) - _RATES) // (1 + draws)
    batch = row[_RATES : _RATES + count].long()
    return StepPlan(row[0], row[1].float(), batch, row[_RATES + count :].view(draws, count).float())


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


def _newest_share(recipe: Recipe, steps: int) -> float:
    # Early averages would be dominated by the first weights.
    return 1 - min(recipe.average_decay, (1 + steps) / (10 + steps))

"""What each step of an epoch needs besides the weights: drawn before the epoch begins.

One row of numbers a step, so that a whole epoch is on a GPU with one copy. Whatever a row holds
is exact in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.train.recipes import Recipe
from toolkit.train.steps.lessons import Lessons

_RATES = 2


class StepPlan(NamedTuple):
    """One step.

    Attributes:
        rate: what the highest learning rate is multiplied with, float64 ().
        newest: the share of the newest weights in the average, float32 ().
        lessons: which X-rays, and how they are shown: of `Lessons.draw`, float64 (numbers, N).
    """

    rate: Tensor
    newest: Tensor
    lessons: Tensor


def plan_epoch(
    recipe: Recipe, lessons: Lessons, indices: Tensor, generator: torch.Generator, epoch: int
) -> list[Tensor]:
    """Return a row for each step of an epoch, float64 (2 + numbers N,), on the CPU.

    Args:
        recipe: of the training.
        lessons: that it has.
        indices: of all its X-rays, int64.
        generator: of the order and of the lessons, on the CPU, so that both are the same on every
            device.
        epoch: the current one, from 0.
    """
    order = indices[torch.randperm(len(indices), generator=generator)]
    batches = [*torch.split(order, recipe.batch_size)]
    # Batch norm has no variance of a single X-ray: a last one goes with the batch before it.
    if len(batches) > 1 and len(batches[-1]) == 1 < recipe.batch_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    rows = []
    for step, batch in enumerate(batches):
        progress = (epoch + step / len(batches)) / recipe.epochs
        rates = [lr_factor(recipe, epoch, progress)]
        rates += [_newest_share(recipe, epoch * len(batches) + step + 1)]
        drawn = lessons.draw(batch, generator)
        rows.append(torch.cat([torch.tensor(rates, dtype=torch.float64), drawn.flatten()]))
    return rows


def step_plan(row: Tensor, numbers: int) -> StepPlan:
    """Return what a row of `plan_epoch` says, on its device, of lessons of so many numbers."""
    return StepPlan(row[0], row[1].float(), row[_RATES:].view(numbers, -1))


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

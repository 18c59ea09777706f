"""What a training shows its network, and what is to be said of it."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from toolkit.train.recipes import Recipe
from toolkit.train.steps.augmentation import DRAWS, augment, draw


class Batch(NamedTuple):
    """X-rays as they are trained on.

    Attributes:
        xray: uint8 (N, size, size), or with channels.
        truth: their classes, int64 (N,), or the probability of each class, float32 (N, C).
        labels: their classes, int64 (N,); -1 where there is none.
    """

    xray: Tensor
    truth: Tensor
    labels: Tensor


class Lessons(Protocol):
    """All that an epoch goes through, on the device that trains.

    Attributes:
        numbers: how many numbers say which one a lesson is.
    """

    numbers: int

    def draw(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Return what says which lessons come next, float64 (numbers, N), on the CPU.

        Args:
            places: of the X-rays, int64 (N,).
            generator: of all that is drawn.
        """
        ...

    def look_up(self, drawn: Tensor) -> Batch:
        """Return the lessons that `draw` chose; never waits for the device."""
        ...


class LabelledLessons:
    """X-rays with their classes, augmented anew each time.

    Args:
        pixels: uint8 (N, size, size), or with channels.
        labels: int64 (N,).
        recipe: of the training.
        mirror: whether they may be mirrored.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, recipe: Recipe, mirror: bool) -> None:
        self._pixels = pixels
        self._labels = labels
        self._strength = recipe.augmentation
        self._mirror = mirror
        self.numbers = 1 + DRAWS if self._strength else 1

    def draw(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Return the places, and the draws of the augmentation."""
        chosen = places.double()[None]
        if not self._strength:
            return chosen
        return torch.cat([chosen, draw(len(places), generator).double()])

    def look_up(self, drawn: Tensor) -> Batch:
        """Return the X-rays, augmented."""
        places = drawn[0].long()
        xray, labels = self._pixels[places], self._labels[places]
        if self._strength:
            xray = augment(xray, self._strength, drawn[1:].float(), self._mirror)
        return Batch(xray, labels, labels)


class TaughtLessons:
    """Views of X-rays that were drawn once, with what teachers said of each.

    Args:
        pixels: of all X-rays, uint8 (N, size, size), or with channels.
        labels: int64 (N,); -1 of those without a class.
        draws: of the augmentation for each view, float32 (V, N, 8).
        probabilities: float32 (V, N, C).
        strength: of the augmentation.
        mirror: whether the X-rays may be mirrored.
    """

    numbers = 1

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        draws: Tensor,
        probabilities: Tensor,
        strength: float,
        mirror: bool,
    ) -> None:
        self._pixels = pixels
        self._labels = labels
        self._draws = draws.flatten(0, 1)
        self._probabilities = probabilities.flatten(0, 1)
        self._strength = strength
        self._mirror = mirror

    def draw(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Return which view of which X-ray, each view as likely as any."""
        count = len(self._pixels)
        views = torch.randint(len(self._draws) // count, places.shape, generator=generator)
        return (views * count + places).double()[None]

    def look_up(self, drawn: Tensor) -> Batch:
        """Return the views."""
        chosen = drawn[0].long()
        places = chosen % len(self._pixels)
        xray = augment(self._pixels[places], self._strength, self._draws[chosen].T, self._mirror)
        return Batch(xray, self._probabilities[chosen], self._labels[places])

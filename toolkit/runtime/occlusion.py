"""What a decision went by: how far it moves when a patch of one picture is covered.

Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014; here for
the X-ray and each of its views by itself, while the others stay whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS = 14
_BATCH = 32

PicturesModel = Callable[[Mapping[str, NDArray[np.uint8]]], NDArray[np.float32]]
"""X-rays and their views, uint8 (N, S, S) each, by name and `xray` first, to logits, (N, C)."""


@dataclass(frozen=True)
class Heat:
    """How much each region speaks for a class.

    Attributes:
        target: the class index.
        falls: of each picture, by name, float64 (S, S): how much the class's log-odds fall, in
            nats, on average over the patches that cover a pixel. Negative where covering speaks
            for it.
    """

    target: int
    falls: dict[str, NDArray[np.float64]]


def occlusion(
    model: PicturesModel, pictures: Mapping[str, NDArray[np.uint8]], target: int | None = None
) -> Heat:
    """Return what the decision on one X-ray went by.

    A patch of the X-ray is covered with its mean grey, or colour; one of a view with black.

    Args:
        model: with X-ray and views apart.
        pictures: `xray`, uint8 (S, S) or (S, S, 3), and each of its views, uint8 (S, S).
        target: the class to explain; None for the one that the model decides on.
    """
    logits = model({name: whole[None].copy() for name, whole in pictures.items()})
    chosen = int(logits[0].argmax()) if target is None else target
    odds = _log_odds(logits, chosen)[0]
    side = len(pictures["xray"])
    patches = _patches(side)
    falls = {}
    for name, whole in pictures.items():
        level = np.rint(whole.mean(axis=(0, 1))).astype(np.uint8) if name == "xray" else np.uint8(0)
        found = []
        for start in range(0, len(patches), _BATCH):
            batch = patches[start : start + _BATCH]
            given = {
                each: np.repeat(picture[None], len(batch), axis=0)
                for each, picture in pictures.items()
            }
            for pixels, patch in zip(given[name], batch, strict=True):
                pixels[patch] = level
            found.append(odds - _log_odds(model(given), chosen))
        falls[name] = _mean_fall(patches, np.concatenate(found), side)
    return Heat(chosen, falls)


def _patches(side: int) -> list[tuple[slice, slice]]:
    """Return patches of a seventh of the side that overlap by half, and at the borders too."""
    stride = max(1, side // _STEPS)
    starts = range(-stride, side, stride)
    spans = [slice(max(0, start), min(side, start + 2 * stride)) for start in starts]
    return [(rows, columns) for rows in spans for columns in spans]


def _log_odds(logits: NDArray[np.float32], target: int) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of a class, float64 (N,)."""
    others = np.delete(logits.astype(np.float64), target, axis=1)
    largest = others.max(axis=1)
    against = largest + np.log(np.exp(others - largest[:, None]).sum(axis=1))
    result: NDArray[np.float64] = logits[:, target] - against
    return result


def _mean_fall(
    patches: list[tuple[slice, slice]], falls: NDArray[np.float64], side: int
) -> NDArray[np.float64]:
    """Return the mean fall over the patches that cover each pixel."""
    total, count = np.zeros((2, side, side))
    for patch, fall in zip(patches, falls, strict=True):
        total[patch] += fall
        count[patch] += 1
    return total / count

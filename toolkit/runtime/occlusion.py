"""What a decision went by: how far it moves when a patch of one input is covered.

Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014; here for
each of the two inputs by itself, while the other stays whole.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 224
WINDOW = 32
STRIDE = 16
_BATCH = 32

TwoInputModel = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]
"""X-rays and edge maps, uint8 (N, 224, 224) each, to logits, float32 (N, C)."""


@dataclass(frozen=True)
class Heat:
    """How much each region speaks for a class.

    Attributes:
        target: the class index.
        image: float64 (224, 224): how much the class's log-odds fall, in nats, on average over
            the patches that cover a pixel of the X-ray. Negative where covering speaks for it.
        edges: likewise of the edge map.
    """

    target: int
    image: NDArray[np.float64]
    edges: NDArray[np.float64]


def occlusion(
    model: TwoInputModel,
    xray: NDArray[np.uint8],
    edge_map: NDArray[np.uint8],
    target: int | None = None,
) -> Heat:
    """Return what the decision on one X-ray went by.

    A patch of the X-ray is covered with its mean grey, one of the edge map with no edges.

    Args:
        model: with its two inputs apart.
        xray: uint8 (224, 224).
        edge_map: uint8 (224, 224), of that X-ray.
        target: the class to explain; None for the one that the model decides on.
    """
    logits = model(xray[None].copy(), edge_map[None].copy())
    chosen = int(logits[0].argmax()) if target is None else target
    odds = _log_odds(logits, chosen)[0]
    patches = _patches()
    heats = []
    for place, level in enumerate((np.uint8(np.rint(xray.mean())), np.uint8(0))):
        falls = []
        for start in range(0, len(patches), _BATCH):
            batch = patches[start : start + _BATCH]
            inputs = [np.repeat(whole[None], len(batch), axis=0) for whole in (xray, edge_map)]
            for pixels, patch in zip(inputs[place], batch, strict=True):
                pixels[patch] = level
            falls.append(odds - _log_odds(model(*inputs), chosen))
        heats.append(_mean_fall(patches, np.concatenate(falls)))
    return Heat(chosen, *heats)


def _patches() -> list[tuple[slice, slice]]:
    """Return patches that overlap by half, and at the borders too."""
    starts = range(-WINDOW + STRIDE, SIDE, STRIDE)
    spans = [slice(max(0, start), min(SIDE, start + WINDOW)) for start in starts]
    return [(rows, columns) for rows in spans for columns in spans]


def _log_odds(logits: NDArray[np.float32], target: int) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of a class, float64 (N,)."""
    others = np.delete(logits.astype(np.float64), target, axis=1)
    largest = others.max(axis=1)
    against = largest + np.log(np.exp(others - largest[:, None]).sum(axis=1))
    result: NDArray[np.float64] = logits[:, target] - against
    return result


def _mean_fall(
    patches: list[tuple[slice, slice]], falls: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean fall over the patches that cover each pixel."""
    total, count = np.zeros((2, SIDE, SIDE))
    for patch, fall in zip(patches, falls, strict=True):
        total[patch] += fall
        count[patch] += 1
    return total / count

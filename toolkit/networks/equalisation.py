"""Channels of more equal range, which 8-bit integers with one scale for all hold better.

Between two layers, channel c is divided by a factor in the first and multiplied by it in the
second. As ReLU and maximum are homogeneous, the function stays the same, but for rounding.
After Nagel et al., "Data-free quantization through weight equalization and bias correction"
(2019); here the ranges are those of the activations, on calibration X-rays.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from toolkit.networks.packing import BlockConv
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.recording import recording
from toolkit.networks.study import IntermediarySpaceModel

# How far to go, in logarithms, to channels of equal range: 1 is all the way, at the weights' cost.
_EQUALISED = 0.3
_SMALLEST_RANGE = 1e-3
_BATCH = 16

Weighted = nn.Conv2d | nn.Linear | BlockConv


@torch.no_grad()
def equalise(
    network: IntermediarySpaceModel, preprocessing: Preprocessing, xrays: Tensor
) -> IntermediarySpaceModel:
    """Return a network of the same function, its convolutions' channels of more equal range.

    Args:
        network: left as it is.
        preprocessing: of its inputs.
        xrays: to take the ranges from, uint8 (N, 224, 224).
    """
    equal = copy.deepcopy(network)
    pairs = [
        pair
        for branch in (equal.imagesClassifier, equal.edgesClassifier)
        for pair in pairwise(layer for layer in branch if isinstance(layer, Weighted))
    ]
    ranges: dict[str, Tensor] = {}
    for batch in torch.split(xrays, _BATCH):
        with recording({str(place): second for place, (_, second) in enumerate(pairs)}) as runs:
            equal(*preprocessing(batch))
        for name, taken, _ in runs:
            largest = taken.transpose(0, 1).flatten(1).amax(dim=1)
            ranges[name] = torch.maximum(ranges.get(name, largest), largest)
    for place, (first, second) in enumerate(pairs):
        _equalise_pair(first, second, ranges[str(place)])
    return equal


def _equalise_pair(first: Weighted, second: Weighted, ranges: Tensor) -> None:
    """Scale a convolution's channels down, and up again in what the next layer takes.

    Args:
        first: with a weight (C, ...) and a bias (C,).
        second: with a weight (D, C) or (D, C, h, w), or, after flattening, (D, C h w).
        ranges: the largest value of each channel or feature that `second` takes, float32 (C,).
    """
    assert first.bias is not None
    ranges = ranges.reshape(len(first.weight), -1).amax(dim=1).double()
    scale = ranges.clamp(min=_SMALLEST_RANGE * max(float(ranges.max()), 1e-6)) ** _EQUALISED
    scale /= scale.log().mean().exp()
    first.weight.copy_(first.weight / scale.reshape(-1, 1, 1, 1))
    first.bias.copy_(first.bias / scale)
    taken = scale.repeat_interleave(second.weight.shape[1] // len(scale))
    second.weight.copy_(second.weight * taken.reshape(1, -1, *[1] * (second.weight.ndim - 2)))

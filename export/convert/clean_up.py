"""What a trained network carries that costs time and changes nothing: found, proven and removed.

Denormal weights become zero. A branch whose output is the same for every possible X-ray becomes
that output; the proof is by interval arithmetic over all values that the inputs can take.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from export.convert.pipeline import Pipeline
from toolkit.errors import EquivalenceError, UsageError
from toolkit.train.health import denormal

# A quarter of the last place of a float32: what is smaller than that share of a bias vanishes in
# it, in whatever order a sum is taken.
_VANISHES = 2.0**-26
# Far above what float32 sums of these lengths can be off by, as a share of their magnitude.
_ROUNDING = 1e-4


class ConstantFeatures(nn.Module):
    """A branch that gives the same features whatever it is given.

    Args:
        features: float32 (1, F).
    """

    features: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return float32 (N, F) for inputs (N, ...)."""
        return self.features.expand(inputs.shape[0], -1)


# What gives nothing smaller where it is given something larger.
_MONOTONE = (nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Dropout, nn.Identity, ConstantFeatures)


def clean_up(
    pipeline: Pipeline, xrays: Tensor, drop_dead: bool
) -> tuple[Pipeline, tuple[str, ...]]:
    """Return a copy without denormal weights, and the names of the branches dropped from it.

    Args:
        pipeline: left as it is.
        xrays: uint8 (N, size, size), to check that no logit changes.
        drop_dead: whether a branch of constant output is replaced by it.

    Raises:
        UsageError: branches are to be replaced, and the network's definition names none.
        EquivalenceError: a logit of one of the X-rays would change.
    """
    cleaned = copy.deepcopy(pipeline).eval()
    network = cleaned.network
    flush_denormals(network)
    dropped = []
    for name, low, high in _branches(cleaned) if drop_dead else ():
        branch = getattr(network, name)
        if constant_output(branch, low, high):
            with torch.no_grad():
                features = branch(low[None])
            setattr(network, name, nn.Sequential(ConstantFeatures(features)))
            dropped.append(name)
    if dropped:
        # It would need the maps of the branch that is gone.
        cleaned.scope = None
    with torch.no_grad():
        if not torch.equal(pipeline(xrays)[0], cleaned(xrays)[0]):
            what = "dropping dead parts" if dropped else "setting denormal weights to zero"
            raise EquivalenceError(f"{what} would change a logit: train the model again")
    return cleaned, tuple(dropped)


def flush_denormals(network: nn.Module) -> int:
    """Set weights too small for a normal float32 to zero; return how many there were."""
    flushed = 0
    with torch.no_grad():
        for parameter in network.parameters():
            tiny = denormal(parameter)
            flushed += int(tiny.sum())
            parameter[tiny] = 0.0
    return flushed


@torch.no_grad()
def constant_output(branch: nn.Sequential, low: Tensor, high: Tensor) -> bool:
    """Return whether a branch in evaluation mode provably gives one output for all its inputs.

    Args:
        branch: of convolutions, linear layers, ReLU, maximum, flattening and dropout; with any
            other layer nothing is proven.
        low: the smallest value of each element of its input, float32 (C, H, W).
        high: the largest.
    """
    low, high = low[None].double(), high[None].double()
    for layer in branch:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            low, high = _affine(layer, low, high)
        elif isinstance(layer, _MONOTONE):
            low, high = layer(low), layer(high)
        else:
            return False
        if torch.equal(low, high):
            return True
    return False


def _affine(layer: nn.Conv2d | nn.Linear, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    exact = copy.deepcopy(layer).double()
    bias = exact.weight.new_zeros(len(exact.weight)) if exact.bias is None else exact.bias
    exact.bias = None
    centre, radius = exact((low + high) / 2), (high - low) / 2
    exact.weight.abs_()
    radius = exact(radius)
    magnitude = exact(torch.maximum(low.abs(), high.abs()))
    bias = bias.view(1, -1, *[1] * (centre.ndim - 2))
    varies = (radius > 0) & (magnitude > _VANISHES * bias.abs())
    slack = torch.where(varies, radius + _ROUNDING * (magnitude + bias.abs()), 0.0)
    middle = torch.where(varies | (radius == 0), centre, 0.0) + bias
    return middle - slack, middle + slack


def _branches(pipeline: Pipeline) -> Iterable[tuple[str, Tensor, Tensor]]:
    """Return each branch with the smallest and largest value of each element that it takes."""
    branches = getattr(pipeline.definition, "branches", None)
    if branches is None:
        raise UsageError("--drop-dead needs a network whose definition names its branches")
    found: dict[str, tuple[str, Tensor, Tensor]] = branches(pipeline.preprocessing)
    return found.values()

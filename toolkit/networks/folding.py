"""An X-ray's three equal channels folded into one grey one: fewer products, the same function.

With W the weight and b the bias of the image branch's first convolution, and r the resized X-ray
on 0..1, which is the same in every channel c:

    conv((r - mean) / std, W) + b = conv(r, sum over c of W_c / std_c) + map
    map = conv(-mean / std, W) + b, of an X-ray's size

Zeros are padded after the normalisation, so the constant part differs along the borders: it is
a map over the convolution's output, not one number for each channel.

`fold` is for a network that stays as it is; `features_of` is for one in training.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IMAGE_SIZE, IntermediarySpaceModel


class GreyPreprocessing(Preprocessing):
    """Gives the image branch one grey channel on 0..1, before its normalisation."""

    def image(self, xray: Tensor) -> Tensor:
        """Return uint8 (N, 224, 224) resized: float32 (N, 1, 256, 256)."""
        return self.resized(xray)


class GreyConv(nn.Module):
    """The first convolution of the image branch, over one grey channel.

    Computed in float64, kept in float32.

    Args:
        conv: the convolution over three channels.
        preprocessing: the mean and standard deviation that its inputs had.
    """

    bias_map: Tensor

    def __init__(self, conv: nn.Conv2d, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.stride, self.padding = conv.stride, conv.padding
        weight, bias_map = grey_parameters(conv, preprocessing, torch.float64)
        self.weight = nn.Parameter(weight.detach().float())
        self.register_buffer("bias_map", bias_map.detach().float())

    def forward(self, grey: Tensor) -> Tensor:
        """Return float32 (N, 2S, 63, 63) of a resized X-ray on 0..1, float32 (N, 1, 256, 256)."""
        output = nn.functional.conv2d(grey, self.weight, None, self.stride, self.padding)
        return output + self.bias_map


def fold(
    network: IntermediarySpaceModel, preprocessing: Preprocessing
) -> tuple[IntermediarySpaceModel, Preprocessing]:
    """Return an equal network over one grey channel, and the preprocessing that gives it.

    Both arguments are left as they are. A branch without a first convolution is taken over.
    """
    equal = copy.deepcopy(network)
    first = equal.imagesClassifier[0]
    if isinstance(first, nn.Conv2d):
        equal.imagesClassifier[0] = GreyConv(first, preprocessing)
    return equal, GreyPreprocessing(preprocessing.constants)


def grey_parameters(
    conv: nn.Conv2d, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return the weight over one channel, (2S, 1, 11, 11), and the bias map, (1, 2S, 63, 63).

    Both depend on the convolution's parameters as autograd sees it.

    Args:
        conv: the convolution over three channels.
        preprocessing: the mean and standard deviation that its inputs had.
        dtype: that it is computed in, and of the results.
    """
    assert conv.bias is not None
    mean, std = preprocessing.image_mean.to(dtype), preprocessing.image_std.to(dtype)
    weight = conv.weight.to(dtype)
    constant = (-mean / std).expand(1, -1, IMAGE_SIZE, IMAGE_SIZE)
    bias_map = nn.functional.conv2d(
        constant, weight, conv.bias.to(dtype), conv.stride, conv.padding
    )
    return (weight / std).sum(1, keepdim=True), bias_map


def features_of(
    network: IntermediarySpaceModel, preprocessing: Preprocessing, xray: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the image and the edge branch give, float32 (N, 2S) each.

    Args:
        network: of which they are the branches.
        preprocessing: of its inputs.
        xray: grey levels, uint8 (N, 224, 224).
    """
    first = network.imagesClassifier[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        grey, edges = preprocessing.resized(xray), preprocessing.edges(preprocessing.edge_map(xray))
    # Constants of the whole batch: in float32 whatever the products are computed in.
    with torch.autocast(xray.device.type, enabled=False):
        weight, bias_map = grey_parameters(first, preprocessing)
    # With one channel, contiguous() cannot tell the two layouts apart and keeps the slower one.
    weight = weight.clone(memory_format=torch.channels_last)
    output = nn.functional.conv2d(grey, weight, None, first.stride, first.padding)
    image = _run(list(network.imagesClassifier)[1:], _plus_map(output, bias_map))
    return image, _run(list(network.edgesClassifier), edges)


def _run(layers: list[nn.Module], taken: Tensor) -> Tensor:
    """Return what layers give of `taken`, each ReLU before a pooling done after it.

    The largest of several ReLUs is the ReLU of the largest, to the bit, and so is the gradient;
    of what is pooled there is a quarter.
    """
    order = [*layers]
    for place, (first, second) in enumerate(pairwise(layers)):
        if isinstance(first, nn.ReLU) and isinstance(second, nn.MaxPool2d):
            order[place : place + 2] = second, first
    for layer in order:
        taken = layer(taken)
    return taken


def _plus_map(output: Tensor, bias_map: Tensor) -> Tensor:
    """Return (N, 2S, 63, 63) plus (1, 2S, 63, 63).

    As a product with ones, whose gradient is a product too: on a CPU much faster than the sum
    over the batch that a plain addition has for a gradient.
    """
    count, channels, height, width = output.shape
    flat = output.permute(0, 2, 3, 1).reshape(count, -1)
    bias = bias_map.permute(0, 2, 3, 1).reshape(1, -1)
    total = flat.addmm_(flat.new_ones(count, 1), bias.to(flat.dtype))
    return total.view(count, height, width, channels).permute(0, 3, 1, 2)

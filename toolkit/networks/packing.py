"""A network with first convolutions that 8-bit integers are fast at.

A convolution of 11x11 with stride 4 over one channel is one of 3x3 with stride 1 over the sixteen
channels that blocks of 4x4 pixels make, its kernel filled up with zeros to 12x12. The inputs'
scaling is folded into weights and biases, so that both take grey levels of 0..255, which 8 bits
hold.
"""

import copy

from torch import Tensor, nn

from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel

_BLOCK = 4
_PADDING = 2
_KERNEL = 12


class LevelPreprocessing(Preprocessing):
    """Gives both branches grey levels, before their normalisation."""

    def image(self, xray: Tensor) -> Tensor:
        """Return uint8 (N, 224, 224) resized, on 0..255: float32 (N, 1, 256, 256)."""
        return self.resized(xray) * 255

    def edges(self, edge_map: Tensor) -> Tensor:
        """Return an edge map, uint8 (N, 224, 224), as it is: float32 (N, 1, 224, 224)."""
        return edge_map.float().unsqueeze(1)


class BlockConv(nn.Module):
    """A first convolution over blocks of grey levels.

    Args:
        conv: of 11x11, stride 4, padding 2, over normalised channels.
        mean: of each channel, in grey levels, float (C,).
        std: likewise.
    """

    def __init__(self, conv: nn.Conv2d, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        assert conv.bias is not None
        weight = conv.weight.detach().double()
        mean, std = (each.detach().double().reshape(1, -1, 1, 1) for each in (mean, std))
        scaled = weight / std
        # The padding is the mean: one grey level, which stands for those of all channels.
        self.outside = float((mean / std).sum() / (1 / std).sum())
        grey = nn.functional.pad(scaled.sum(1, keepdim=True), (0, 1, 0, 1))
        blocks = grey.reshape(-1, _KERNEL // _BLOCK, _BLOCK, _KERNEL // _BLOCK, _BLOCK)
        self.weight = nn.Parameter(blocks.permute(0, 2, 4, 1, 3).flatten(1, 2).float())
        bias = conv.bias.detach().double() - (scaled * mean).sum((1, 2, 3))
        self.bias = nn.Parameter(bias.float())

    def forward(self, levels: Tensor) -> Tensor:
        """Return float32 (N, 2S, h, w) of grey levels 0..255, float32 (N, 1, H, W)."""
        padded = nn.functional.pad(levels, [_PADDING] * 4, value=self.outside)
        blocks = nn.functional.pixel_unshuffle(padded, _BLOCK)
        return nn.functional.conv2d(blocks, self.weight, self.bias)


def pack(
    network: IntermediarySpaceModel, preprocessing: Preprocessing
) -> tuple[IntermediarySpaceModel, Preprocessing]:
    """Return a network over blocks of grey levels, and the preprocessing that gives them.

    Both arguments are left as they are. It is equal but for the outermost values of the first
    convolutions. A branch without a first convolution is taken over.
    """
    equal = copy.deepcopy(network)
    image, edges = equal.imagesClassifier[0], equal.edgesClassifier[0]
    if isinstance(image, nn.Conv2d):
        mean, std = preprocessing.image_mean * 255, preprocessing.image_std * 255
        equal.imagesClassifier[0] = BlockConv(image, mean, std)
    if isinstance(edges, nn.Conv2d):
        mean, std = preprocessing.edge_mean, preprocessing.edge_std
        equal.edgesClassifier[0] = BlockConv(edges, mean, std)
    return equal, LevelPreprocessing(preprocessing.constants)

"""The one definition of the preprocessing: a grey X-ray to the network's two inputs.

Training runs this module on the device; export compiles it into the graph that is served.
Every value up to the last scaling is an integer below 2**24, so float32 arithmetic on it is
exact, and each of the few roundings is a single IEEE operation: the results are the same bytes
in PyTorch and ONNX Runtime, on any device.
"""

import torch
from torch import Tensor, nn

from toolkit.model.records import PreprocessingConstants

_SIXTEENTHS = 16
# Every 7 pixels become 8: 224 become 256.
_OLD = 7
_NEW = 8


class Preprocessing(nn.Module):
    """X-ray to (image, edges), after the study's description, defined in integers.

    Edges: d = row(y+1) - row(y-1), each summed over x-1..x+1, borders mirrored without
    repeating the edge pixel; |d| where it exceeds the threshold, else 0; times 255 / max|d| of
    that X-ray, rounded half to even. A blank X-ray has no edges: zeros.

    Image: bilinear resize 224 to 256 with half-pixel centres, whose weights are sixteenths,
    then mean and standard deviation per channel.
    """

    image_mean: Tensor
    image_std: Tensor
    edge_mean: Tensor
    edge_std: Tensor
    white: Tensor
    resize_scale: Tensor
    resize_weight: Tensor

    def __init__(self, constants: PreprocessingConstants) -> None:
        super().__init__()
        self.constants = constants
        self.threshold = float(constants.edge_threshold)
        buffers = {
            "image_mean": torch.tensor(constants.image_mean).reshape(1, 3, 1, 1),
            "image_std": torch.tensor(constants.image_std).reshape(1, 3, 1, 1),
            "edge_mean": torch.tensor(constants.edge_mean),
            "edge_std": torch.tensor(constants.edge_std),
            "white": torch.tensor(255.0),
            "resize_scale": torch.tensor(255.0 * _SIXTEENTHS * _SIXTEENTHS),
            "resize_weight": _resize_weight(),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, xray: Tensor, edge_map: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the network's inputs.

        Args:
            xray: grey levels, uint8 (N, 224, 224).
            edge_map: uint8 (N, 224, 224); that of the X-ray unless another is given.

        Returns:
            image: float32 (N, 3, 256, 256), and edges: float32 (N, 1, 224, 224).
        """
        edge_map = self.edge_map(xray) if edge_map is None else edge_map
        return self.image(xray), self.edges(edge_map)

    def edge_map(self, xray: Tensor) -> Tensor:
        """Return the horizontal edges of uint8 (N, 224, 224) as uint8 (N, 224, 224)."""
        return self._scaled_edges(xray).to(torch.uint8)

    def edges(self, edge_map: Tensor) -> Tensor:
        """Return an edge map, uint8 (N, 224, 224), normalised: float32 (N, 1, 224, 224)."""
        return ((edge_map.float() - self.edge_mean) / self.edge_std).unsqueeze(1)

    def image(self, xray: Tensor) -> Tensor:
        """Return uint8 (N, 224, 224) resized and normalised: float32 (N, 3, 256, 256)."""
        return (self.resized(xray) - self.image_mean) / self.image_std

    def resized(self, xray: Tensor) -> Tensor:
        """Return uint8 (N, 224, 224) on 0..1 at the network's size: float32 (N, 1, 256, 256)."""
        padded = nn.functional.pad(xray.float().unsqueeze(1), (1, 1, 1, 1), mode="replicate")
        blocks = nn.functional.conv2d(padded, self.resize_weight, stride=_OLD)
        return nn.functional.pixel_shuffle(blocks, _NEW) / self.resize_scale

    def _scaled_edges(self, xray: Tensor) -> Tensor:
        grey = xray.float()
        wide = torch.cat([grey[:, :, 1:2], grey, grey[:, :, -2:-1]], dim=2)
        sums = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
        # The mirrored rows above the first and below the last cancel: their difference is 0.
        inner = (sums[:, 2:] - sums[:, :-2]).abs()
        edges = nn.functional.pad(inner, (0, 0, 1, 1))
        edges = edges * (edges > self.threshold)
        largest = edges.amax(dim=(1, 2), keepdim=True).clamp(min=1.0)
        return torch.round(edges * (self.white / largest))


def _resize_weight() -> Tensor:
    """What each pixel of 9x9 gives to each of the 8x8 that its middle 7x7 become.

    float32 (64, 1, 9, 9) of integers, in 1/256; each sums up to 256.
    """
    line = torch.zeros(_NEW, _OLD + 2)
    # New pixel k of eight lies (15 - 2k) / 16 of the way from old pixel k to k + 1 of nine.
    for new in range(_NEW):
        line[new, new] = 2 * new + 1
        line[new, new + 1] = _SIXTEENTHS - (2 * new + 1)
    return torch.einsum("ac,bd->abcd", line, line).reshape(-1, 1, _OLD + 2, _OLD + 2)

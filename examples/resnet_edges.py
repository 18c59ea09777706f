"""One of the study's earlier experiments: a ResNet-18 beside a branch of the X-ray's edges.

    toolkit train --network examples/resnet_edges.py --name resnet

After He et al., "Deep residual learning for image recognition", CVPR 2016, without pretrained
weights; `width` is 64 there. The edges are those of the study, with their preprocessing.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from toolkit import TensorSpec
from toolkit.model.records import PreprocessingConstants
from toolkit.networks.preprocessing import Preprocessing


class GreyAndEdges(Preprocessing):
    """The X-ray as it is, and its horizontal edges, each about 0 in the mean."""

    def forward(self, xray: Tensor, edge_map: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return float32 (N, 1, 224, 224) of X-rays and of edge maps, uint8 (N, 224, 224)."""
        assert edge_map is not None
        return (xray.float().unsqueeze(1) - 120) / 60, self.edges(edge_map)


class Block(nn.Module):
    """Two convolutions that add to what they are given."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(taken, given, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(given)
        self.second = nn.Conv2d(given, given, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(given)
        self.relu = nn.ReLU()
        self.short = nn.Sequential()
        if stride > 1 or taken != given:
            self.short = nn.Sequential(
                nn.Conv2d(taken, given, 1, stride, bias=False), nn.BatchNorm2d(given)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps, (N, given, H / stride, W / stride)."""
        inner = self.relu(self.first_norm(self.first(maps)))
        return self.relu(self.second_norm(self.second(inner)) + self.short(maps))


class Network(nn.Module):
    """A ResNet-18 of the X-ray and a small branch of the edges, joined by a linear layer."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = [
            block
            for place, (taken, given) in enumerate(pairwise(sizes))
            for block in (Block(taken, given, 1 + (place > 0)), Block(given, given, 1))
        ]
        self.xray = nn.Sequential(
            nn.Conv2d(1, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.edges = nn.Sequential(
            *(nn.Conv2d(1, width, 11, 4, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            nn.MaxPool2d(3, 2),
            *(nn.Conv2d(width, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        )
        self.last = nn.Linear(8 * width + 16 * width, classes)

    def features(self, grey: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each branch gives, (N, F): either is trained with a loss of its own."""
        return self.xray(grey), self.edges(edges)

    def joined(self, *features: Tensor) -> Tensor:
        """Return logits, float32 (N, C)."""
        logits: Tensor = self.last(torch.cat(features, dim=1).relu())
        return logits

    def forward(self, grey: Tensor, edges: Tensor) -> Tensor:
        """Return logits, float32 (N, C)."""
        return self.joined(*self.features(grey, edges))


class ResNetWithEdges:
    """The definition: two inputs, and a view that is shown beside the X-ray."""

    size = 224
    inputs = (
        TensorSpec("grey", "float32", ("batch", 1, 224, 224)),
        TensorSpec("edges", "float32", ("batch", 1, 224, 224)),
    )
    views = ("edge_map",)
    mirror = True

    def preprocessing(self) -> nn.Module:
        """Return what makes the inputs of an X-ray."""
        return GreyAndEdges(PreprocessingConstants())

    def module(self, classes: int, width: int = 16) -> nn.Module:
        """Return the network."""
        return Network(classes, width)

    def recipe(self) -> dict[str, object]:
        """Return what training shall do otherwise than by default."""
        return {"epochs": 12}

"""A network of colour X-rays, 96 x 96: three inputs of different shapes, a view, two classes."""

import torch
from torch import nn
from torch.nn import functional

from toolkit import TensorSpec


class Colours(nn.Module):
    """Colours, a smaller grey picture, and the mean of each channel."""

    def dark(self, xray):
        """Return what is left of red where it is dark, uint8 (N, 96, 96)."""
        return 255 - xray[..., 0]

    def forward(self, xray, dark):
        """Return the three inputs."""
        colour = xray.permute(0, 3, 1, 2).float() / 255
        grey = dark.float()[:, ::4, ::4].unsqueeze(1) / 255
        return colour, grey, colour.mean((2, 3))


class Branches(nn.Module):
    """Two convolutional branches with batch norm and a residual, and what takes the means."""

    def __init__(self, classes, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 5, stride=4)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.grey = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.means = nn.Linear(3, width)
        self.last = nn.Linear(3 * width, classes)

    def forward(self, colour, grey, means):
        """Return logits, float32 (N, C)."""
        maps = self.norm(self.first(colour)).relu()
        maps = (maps + self.second(maps)).relu()
        pooled = functional.adaptive_avg_pool2d(maps, 1).flatten(1)
        other = self.grey(grey).mean((2, 3))
        return self.last(torch.cat([pooled, other, self.means(means).relu()], dim=1))


class Colour:
    """The definition."""

    size = 96
    channels = 3
    inputs = (
        TensorSpec("colour", "float32", ("batch", 3, 96, 96)),
        TensorSpec("grey", "float32", ("batch", 1, 24, 24)),
        TensorSpec("means", "float32", ("batch", 3)),
    )
    views = ("dark",)

    def preprocessing(self):
        """Return what makes the inputs."""
        return Colours()

    def module(self, classes, width=8):
        """Return the network."""
        return Branches(classes, width)

    def recipe(self):
        """Return what training does otherwise."""
        return {"epochs": 12, "batch_size": 8, "lr": 0.003, "augmentation": 0.3}

    def space(self, trial):
        """Return the width of a trial."""
        return {"width": trial.suggest_categorical("width", [4, 8])}

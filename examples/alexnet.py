"""One of the study's earlier experiments: a down-scaled AlexNet that is given the X-ray alone.

    toolkit train --network examples/alexnet.py --name alexnet

After Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
networks", NIPS 2012; `width` is 64 there.
"""

from torch import Tensor, nn

from toolkit import TensorSpec


class Grey(nn.Module):
    """Grey levels, about 0 in the mean."""

    def forward(self, xray: Tensor) -> Tensor:
        """Return float32 (N, 1, 224, 224) of uint8 (N, 224, 224)."""
        return (xray.float().unsqueeze(1) - 120) / 60


class AlexNet:
    """Five convolutions and three linear layers."""

    size = 224
    inputs = (TensorSpec("grey", "float32", ("batch", 1, 224, 224)),)
    views = ()
    mirror = True

    def preprocessing(self) -> nn.Module:
        """Return what makes the input of an X-ray."""
        return Grey()

    def module(self, classes: int, width: int = 16, dropout: float = 0.2) -> nn.Module:
        """Return the network."""
        maps = 4 * width
        return nn.Sequential(
            *(nn.Conv2d(1, width, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(width, 3 * width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(3 * width, 6 * width, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(6 * width, maps, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(maps, maps, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(maps * 6 * 6, 8 * width), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(8 * width, 8 * width), nn.ReLU()),
            nn.Linear(8 * width, classes),
        )

    def recipe(self) -> dict[str, object]:
        """Return what training shall do otherwise than by default."""
        return {"epochs": 12, "initialisation": "he"}

"""A network of one's own, from pictures to served answers: scikit-learn's handwritten digits.

    python examples/digits.py FOLDER       writes the 1,797 pictures as DIR/DIGIT/NAME.png
    toolkit train --network examples/digits.py --data FOLDER --name digits

Below are the network and its preprocessing, which is all that the toolkit needs to know.
"""

import sys
from pathlib import Path

from torch import Tensor, nn

from toolkit import TensorSpec

SIDE = 64


class Grey(nn.Module):
    """Grey levels on 0..1."""

    def forward(self, xray: Tensor) -> Tensor:
        """Return float32 (N, 1, 32, 32) of uint8 (N, 32, 32)."""
        return xray.float().unsqueeze(1) / 255


class Digits:
    """A small convolutional network over one grey input, 32 x 32."""

    size = 32
    inputs = (TensorSpec("grey", "float32", ("batch", 1, 32, 32)),)
    views = ()

    def preprocessing(self) -> nn.Module:
        """Return what makes the input of a picture."""
        return Grey()

    def module(self, classes: int, width: int = 16) -> nn.Module:
        """Return the network."""
        return nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
            nn.MaxPool2d(2),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
            nn.MaxPool2d(2),
            *(nn.Flatten(), nn.Linear(2 * width * 8 * 8, classes)),
        )

    def recipe(self) -> dict[str, object]:
        """Return what training shall do otherwise than by default."""
        return {"epochs": 8, "batch_size": 32}


def write_pictures(folder: Path) -> None:
    """Write the digits as PNG files, each in the folder of its class; 8 x 8 become 64 x 64."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pairs = zip(digits.images, digits.target, strict=True)
    for number, (picture, digit) in enumerate(pairs):
        place = folder / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        levels = np.kron(np.rint(picture * 255 / 16), np.ones((SIDE // 8, SIDE // 8)))
        Image.fromarray(levels.astype(np.uint8)).save(place / f"digit{number:04}.png")


if __name__ == "__main__":
    write_pictures(Path(sys.argv[1]))

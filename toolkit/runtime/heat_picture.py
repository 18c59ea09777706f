"""The X-ray and its edge map side by side, coloured by what a decision went by."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from toolkit.runtime.occlusion import SIDE, Heat
from toolkit.xray.pictures import encode

_SCALE = 2
_MARGIN = 12
_CAPTION = 44
_FOR = np.array([230, 60, 40], np.float64)
_AGAINST = np.array([40, 110, 230], np.float64)
_STRONGEST = 0.65


def draw(xray: NDArray[np.uint8], edge_map: NDArray[np.uint8], heat: Heat, caption: str) -> bytes:
    """Return a PNG: red speaks for the class, blue against it, both inputs on one scale.

    Args:
        xray: uint8 (224, 224).
        edge_map: uint8 (224, 224).
        heat: of both.
        caption: a line above them.
    """
    strongest = max(float(np.abs(heat.image).max()), float(np.abs(heat.edges).max())) or 1.0
    side = SIDE * _SCALE
    picture = Image.new("RGB", (2 * side + 3 * _MARGIN, side + 2 * _CAPTION + _MARGIN), "white")
    text = ImageDraw.Draw(picture)
    text.text((_MARGIN, _MARGIN), caption, "black", ImageFont.load_default(16))
    for index, (name, pixels, values) in enumerate(
        (("X-ray", xray, heat.image), ("edge map", edge_map, heat.edges))
    ):
        left = _MARGIN + index * (side + _MARGIN)
        panel = Image.fromarray(_blend(pixels, values / strongest))
        picture.paste(panel.resize((side, side), Image.Resampling.BICUBIC), (left, _CAPTION))
        most = float(np.abs(values).max())
        text.text(
            (left, _CAPTION + side + 6),
            f"{name}: up to {most:.2f} nats",
            "black",
            ImageFont.load_default(14),
        )
    return encode(np.asarray(picture))


def _blend(pixels: NDArray[np.uint8], share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colour grey pixels, uint8 (H, W), by shares in -1..1: uint8 (H, W, 3)."""
    grey = np.repeat(pixels[:, :, None].astype(np.float64), 3, axis=2)
    opacity = (_STRONGEST * np.abs(share))[:, :, None]
    colour = np.where(share[:, :, None] > 0, _FOR, _AGAINST)
    return np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)

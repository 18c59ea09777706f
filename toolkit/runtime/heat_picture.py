"""The X-ray and its views side by side, coloured by what a decision went by."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from toolkit.runtime.occlusion import Heat
from toolkit.xray.pictures import encode

_SIDE = 448
_MARGIN = 12
_CAPTION = 44
_FOR = np.array([230, 60, 40], np.float64)
_AGAINST = np.array([40, 110, 230], np.float64)
_STRONGEST = 0.65


def draw(pictures: Mapping[str, NDArray[np.uint8]], heat: Heat, caption: str) -> bytes:
    """Return a PNG: red speaks for the class, blue against it, all pictures on one scale.

    Args:
        pictures: `xray`, uint8 (S, S) or (S, S, 3), and each of its views, uint8 (S, S).
        heat: of all of them.
        caption: a line above them.
    """
    strongest = max(float(np.abs(values).max()) for values in heat.falls.values()) or 1.0
    width = len(pictures) * (_SIDE + _MARGIN) + _MARGIN
    picture = Image.new("RGB", (width, _SIDE + 2 * _CAPTION + _MARGIN), "white")
    text = ImageDraw.Draw(picture)
    text.text((_MARGIN, _MARGIN), caption, "black", ImageFont.load_default(16))
    for index, (name, pixels) in enumerate(pictures.items()):
        left = _MARGIN + index * (_SIDE + _MARGIN)
        panel = Image.fromarray(_blend(pixels, heat.falls[name] / strongest))
        picture.paste(panel.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (left, _CAPTION))
        most = float(np.abs(heat.falls[name]).max())
        text.text(
            (left, _CAPTION + _SIDE + 6),
            f"{spoken(name)}: up to {most:.2f} nats",
            "black",
            ImageFont.load_default(14),
        )
    return encode(np.asarray(picture))


def spoken(name: str) -> str:
    """Return what a picture is called in a sentence."""
    return "X-ray" if name == "xray" else name.replace("_", " ")


def _blend(pixels: NDArray[np.uint8], share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colour pixels, uint8 (H, W) or (H, W, 3), by shares in -1..1: uint8 (H, W, 3)."""
    grey = np.atleast_3d(pixels).astype(np.float64)
    opacity = (_STRONGEST * np.abs(share))[:, :, None]
    colour = np.where(share[:, :, None] > 0, _FOR, _AGAINST)
    return np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)

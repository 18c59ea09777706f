"""Random changes of X-rays during training, drawn per X-ray and made on the device."""

import torch
from torch import Tensor
from torch.nn import functional

_ROTATION = 0.12  # radians either way, 7 degrees
_SHIFT = 0.05  # of the side, either way
_SCALE = 0.10  # either way
_CONTRAST = 0.25  # either way
_BRIGHTNESS = 0.10  # of white, either way
_GAMMA = 0.25  # of the exponent's logarithm, either way
DRAWS = 8
"""Numbers that are drawn for each X-ray."""


def draw(count: int, generator: torch.Generator) -> Tensor:
    """Return what `augment` needs for so many X-rays: evenly in [-1, 1), float32 (8, count)."""
    return torch.rand((DRAWS, count), generator=generator) * 2 - 1


def augment(xray: Tensor, strength: float, draws: Tensor) -> Tensor:
    """Return X-rays flipped (left knee, right knee), moved, turned, scaled and re-exposed.

    Args:
        xray: uint8 (N, 224, 224).
        strength: multiplies every range; flips always have an even chance.
        draws: of `draw`, on the same device, float32 (8, N).

    Returns:
        uint8 (N, 224, 224).
    """
    # Not sign(): a draw of exactly 0 would flatten the X-ray.
    flip = torch.where(draws[0] < 0, -1.0, 1.0)
    angle = draws[1] * _ROTATION * strength
    zoom = 1 + draws[2] * _SCALE * strength
    moved = _affine(xray.float() / 255, flip, angle, zoom, draws[3:5] * 2 * _SHIFT * strength)
    contrast = 1 + draws[5] * _CONTRAST * strength
    brightness = draws[6] * _BRIGHTNESS * strength
    gamma = (draws[7] * _GAMMA * strength).exp()
    exposed = moved.clamp(0, 1) ** gamma.view(-1, 1, 1)
    exposed = (exposed - 0.5) * contrast.view(-1, 1, 1) + 0.5 + brightness.view(-1, 1, 1)
    return (exposed.clamp(0, 1) * 255).round().to(torch.uint8)


def _affine(grey: Tensor, flip: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Sample float32 (N, H, W) on a turned, scaled, shifted and perhaps mirrored grid."""
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    theta = torch.stack(
        [
            torch.stack([cosine * flip, -sine, shift[0]], dim=1),
            torch.stack([sine * flip, cosine, shift[1]], dim=1),
        ],
        dim=1,
    )
    size = [grey.shape[0], 1, grey.shape[1], grey.shape[2]]
    grid = functional.affine_grid(theta, size, align_corners=False)
    sampled = functional.grid_sample(
        grey.unsqueeze(1), grid, padding_mode="reflection", align_corners=False
    )
    return sampled.squeeze(1)

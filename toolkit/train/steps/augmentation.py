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


def augment(xray: Tensor, strength: float, draws: Tensor, mirror: bool = True) -> Tensor:
    """Return X-rays mirrored (left knee, right knee), moved, turned, scaled and re-exposed.

    Args:
        xray: uint8 (N, size, size), or (N, size, size, 3) in colour.
        strength: multiplies every range; mirroring always has an even chance.
        draws: of `draw`, on the same device, float32 (8, N).
        mirror: whether they may be mirrored.

    Returns:
        uint8 of the same shape.
    """
    # Not sign(): a draw of exactly 0 would flatten the X-ray.
    flip = torch.where((draws[0] < 0) & mirror, -1.0, 1.0)
    angle = draws[1] * _ROTATION * strength
    zoom = 1 + draws[2] * _SCALE * strength
    moved = _affine(xray.float() / 255, flip, angle, zoom, draws[3:5] * 2 * _SHIFT * strength)
    contrast = 1 + draws[5] * _CONTRAST * strength
    brightness = draws[6] * _BRIGHTNESS * strength
    gamma = (draws[7] * _GAMMA * strength).exp()
    each = (-1, *[1] * (xray.ndim - 1))
    exposed = moved.clamp(0, 1) ** gamma.view(each)
    exposed = (exposed - 0.5) * contrast.view(each) + 0.5 + brightness.view(each)
    return (exposed.clamp(0, 1) * 255).round().to(torch.uint8)


def _affine(grey: Tensor, flip: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Sample float32 (N, H, W) or (N, H, W, 3) on a turned, scaled, shifted, mirrored grid."""
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
    maps = grey.unsqueeze(1) if grey.ndim == 3 else grey.permute(0, 3, 1, 2)
    sampled = functional.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)
    return sampled.squeeze(1) if grey.ndim == 3 else sampled.permute(0, 2, 3, 1)

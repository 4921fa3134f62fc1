"""Distances computed where the masks are, so that no training step waits for them."""

from __future__ import annotations

import torch
from torch import Tensor

_ELEMENTS = 2**26
"""Of the largest table at a time: 256 MB."""


def distance_to(targets: Tensor) -> Tensor:
    """Euclidean distance of each pixel to the nearest target of its slice; exact.

    First along columns, then over the columns of each row: the smallest
    (x - x')² + g(x')² (Saito and Toriwaki 1994), by brute force, which a GPU does in
    less time than a copy to the processor and back takes.

    Args:
        targets: (N,H,W) bool.

    Returns:
        (N,H,W) float32 in pixels; H + W or more in a slice without target.
    """
    count, _, width = targets.shape
    squared = _along_columns(targets).square()
    x = torch.arange(width, device=targets.device, dtype=torch.float32)
    steps = (x[:, None] - x[None, :]).square()
    rows = max(1, _ELEMENTS // (count * width * width))
    blocks = torch.split(squared, rows, dim=1)
    parts = [(part[:, :, None, :] + steps).amin(dim=-1) for part in blocks]
    return torch.cat(parts, dim=1).sqrt()


def _along_columns(targets: Tensor) -> Tensor:
    """Distance (N,H,W) to the nearest target above or below, at most H + W."""
    height, width = targets.shape[1:]
    far = float(height + width)
    y = torch.arange(height, device=targets.device, dtype=torch.float32)[:, None]
    above = torch.where(targets, y, -far).cummax(dim=1).values
    below = torch.where(targets, y, 2 * far).flip(1).cummin(dim=1).values.flip(1)
    return torch.minimum(y - above, below - y).clamp_max(far)

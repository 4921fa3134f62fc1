"""What a transform on the device is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from seglab.data.augment.transform import Uniform

Slices = tuple[torch.Tensor, torch.Tensor]
"""Images (B,C,H,W) float32 in whole grey levels 0 to 255, and masks (B,1,H,W) in {0,1}."""

Params = dict[str, NDArray[np.float32]]
"""Drawn numbers by name, each with one row a sample."""


class DeviceTransform(Protocol):
    """Draws on the processor, where nothing waits for it, and applies on the device."""

    def draw(self, stream: np.random.Generator, count: int) -> Params | None:
        """Draw for ``count`` samples; None if the transform spares all of them."""

    def apply(
        self, slices: Slices, params: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> Slices:
        """Transform a batch; ``generator`` gives what is drawn pixel by pixel."""


def draw_each(
    stream: np.random.Generator,
    count: int,
    p: float,
    draw: Callable[[Uniform], float | Sequence[float]],
    neutral: float | Sequence[float],
) -> NDArray[np.float32] | None:
    """Draw for each sample with probability ``p``, else take ``neutral``; None if for none."""
    chosen = stream.random(count) < p
    if not chosen.any():
        return None
    rows = [draw(stream.uniform) if is_chosen else neutral for is_chosen in chosen]
    return np.asarray(rows, np.float32)


def each_sample(values: torch.Tensor) -> torch.Tensor:
    """Shape (B,) as (B,1,1,1)."""
    return values.view(-1, 1, 1, 1)

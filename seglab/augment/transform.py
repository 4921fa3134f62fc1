"""What a pipeline is made of: transforms that draw in one step and apply in another.

Images are (B,C,H,W) float32 in whole grey levels, 0 for background and 1 to 255 for brain, with
masks (B,1,H,W) float32 in {0,1}. Channels are modality-major: all neighbouring slices of the
first modality, then those of the second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Params = Mapping[str, NDArray[Any]]
"""Drawn numbers by name; those of a batch have a first axis (n) for its draws."""

FRAME_MM = 240.0
"""Side of the frame where no file tells it: that of BraTS. Sizes in mm are then shares of it."""


@dataclass(frozen=True)
class Frame:
    """What a pipeline has to know about the slices."""

    hw: tuple[int, int]
    pixel_mm: float
    mirror_axis: int = 1
    """Array axis (0 rows, 1 columns) that runs from the patient's left to right."""
    neighbours: int = 1
    """Channels of one modality: a slice with its neighbours."""


class Transform(ABC):
    """Draws on the processor, for each sample with probability ``p``; applies on any device."""

    p: float

    @abstractmethod
    def draw(self, stream: np.random.Generator) -> Params | None:
        """Draw the parameters of one sample; None leaves it as it is."""


class Geometric(Transform):
    """Moves image and mask together."""

    @abstractmethod
    def apply(
        self, images: torch.Tensor, masks: torch.Tensor, params: Params
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move images (n,C,H,W) and masks (n,1,H,W), each by its own parameters."""


class Intensity(Transform):
    """Changes grey levels, drawn anew for each modality; its neighbouring slices change alike."""

    @abstractmethod
    def apply(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Change images (n,K,H,W), K neighbours of one modality, each by its own parameters."""


def on_device(values: NDArray[Any], images: torch.Tensor) -> torch.Tensor:
    """Copy drawn numbers to where the images are; nothing waits for a GPU."""
    return torch.from_numpy(values).to(images.device, non_blocking=True)


def enlarge(coarse: torch.Tensor, hw: tuple[int, int], *, between_centres: bool) -> torch.Tensor:
    """Interpolate (n,K,h,w) linearly to (n,K,H,W).

    ``functional.interpolate`` does the same, but its bits depend on the number of threads.

    Args:
        coarse: values on a grid.
        hw: height and width of the frame.
        between_centres: the outer values lie on the centres of the frame's outer pixels; else
            they fill its area evenly, as pixels do.
    """
    axes = []
    for side in hw:
        pixels = torch.arange(side, device=coarse.device, dtype=torch.float32)
        axes.append(2 * pixels / (side - 1) - 1 if between_centres else (2 * pixels + 1) / side - 1)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)
    every = grid.expand(len(coarse), *grid.shape)
    return functional.grid_sample(
        coarse, every, mode="bilinear", padding_mode="border", align_corners=between_centres
    )


def within_brain(changed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Round to 1 … 255 where ``images`` shows brain, to 0 elsewhere; a scan has no more there."""
    return changed.round_().clamp_(1, 255).mul_(images > 0)

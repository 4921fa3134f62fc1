"""From probabilities to a mask: threshold, fill holes, drop small components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Bool = NDArray[np.bool_]
Labels = NDArray[np.int32]

PLAIN_THRESHOLD = 0.5


@dataclass(frozen=True)
class OperatingPoint:
    """How a network's output becomes a mask; the default is the plain 0.5 threshold."""

    threshold: float = PLAIN_THRESHOLD
    """In (0, 1); a pixel is tumour where its probability is above it."""
    smallest_component_px: int = 0
    """Components of fewer native voxels are dropped; 0 and 1 keep all."""
    fill_holes: bool = False
    """Fill what a slice's mask encloses."""
    mirror: bool = False
    """Average the logits of the image and of its left–right mirror image."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def apply(self, probability: NDArray[np.float32], slice_indices: NDArray[Any]) -> Bool:
        """Make the mask.

        Args:
            probability: (S, H, W) on the native grid.
            slice_indices: (S,) ascending positions in the stack; components do not
                cross a gap.

        Returns:
            (S, H, W).
        """
        mask: Bool = probability > self.threshold
        if self.fill_holes:
            mask = fill_holes(mask)
        if self.smallest_component_px > 1 and mask.any():
            labels = label_components(mask, slice_indices)
            large = np.bincount(labels.ravel()) >= self.smallest_component_px
            large[0] = False
            mask = large[labels]
        return mask


class Mirrored(nn.Module):
    """Averages a network's logits over the image and its mirror image.

    Args:
        network: image (B,C,H,W) to logits (B,1,H,W).
        axis: of a slice (0 rows, 1 columns), along which left and right lie.
    """

    def __init__(self, network: nn.Module, axis: int) -> None:
        super().__init__()
        self.network = network
        self.dimension = 2 + axis

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) to logits (B,1,H,W)."""
        mirrored: Tensor = self.network(image.flip(self.dimension))
        direct: Tensor = self.network(image)
        return (direct + mirrored.flip(self.dimension)) / 2


def fill_holes(mask: Bool) -> Bool:
    """Fill, slice by slice, the background that touches no border of (S, H, W)."""
    from scipy.ndimage import binary_fill_holes

    filled = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        filled[index] = binary_fill_holes(mask[index])
    return filled


def label_components(mask: Bool, slice_indices: NDArray[Any]) -> Labels:
    """Number the components (26 neighbours) of (S, H, W) from 1; 0 is background."""
    from scipy.ndimage import label

    labels = np.zeros(mask.shape, np.int32)
    found = 0
    for run in _runs(slice_indices):
        part, count = label(mask[run], structure=np.ones((3, 3, 3)))
        labels[run] = np.where(part > 0, part + found, 0)
        found += count
    return labels


def _runs(slice_indices: NDArray[Any]) -> Iterator[slice]:
    """Stretches of slices that follow one another without a gap."""
    ends = [*(np.flatnonzero(np.diff(slice_indices) != 1) + 1).tolist(), len(slice_indices)]
    start = 0
    for end in ends:
        yield slice(start, end)
        start = end

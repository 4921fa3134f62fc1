"""Distances, sizes and neighbourhoods on a patient's grid, in millimetres or in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.case import Case

Bool = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

UNKNOWN_SLICE_STEP_PX: Final = 5.0
"""Where spacing is unknown, a slice is taken to be as thick as five pixels are wide: the
usual shape of a clinical FLAIR voxel. Distances are then in pixels."""
RIM: Final = 2.0
"""mm or px: two experts differ by as much."""
SEPARATE: Final = 1e6
"""Distance between slices that are not neighbours in the stack."""


@dataclass(frozen=True)
class Space:
    """The grid of one patient."""

    step: tuple[float, float, float]
    """(slice, row, column) size of a voxel, in ``unit``."""
    unit: Literal["mm", "px"]
    contiguous: bool
    """False where slices are missing: each is then looked at by itself."""

    @classmethod
    def of(cls, case: Case) -> Space:
        """Describe the grid of ``case``."""
        contiguous = bool((np.diff(case.slice_indices) == 1).all())
        if case.spacing_mm is None:
            return cls((UNKNOWN_SLICE_STEP_PX, 1.0, 1.0), "px", contiguous)
        return cls(case.spacing_mm, "mm", contiguous)

    @property
    def voxel(self) -> float:
        """Volume of a voxel in cubic ``unit``."""
        return float(np.prod(self.step))

    @property
    def rim(self) -> float:
        """Depth of the boundary: 2, or a pixel from corner to corner where that is more."""
        return max(RIM, math.hypot(*self.step[1:]))

    @property
    def thin(self) -> bool:
        """Whether neighbouring slices are close enough to look alike."""
        return self.unit == "mm" and self.step[0] <= 2.5

    def label(self, mask: Bool) -> tuple[NDArray[np.int32], int]:
        """Number the connected pieces of ``mask`` (S, H, W) from 1; corners connect."""
        from scipy.ndimage import label

        structure = np.ones((3, 3, 3), dtype=bool)
        if not self.contiguous:
            structure[[0, 2]] = False
        labels, count = label(mask, structure)
        return np.asarray(labels, dtype=np.int32), int(count)

    def distances(self, points: Bool, mask: Bool) -> NDArray[np.float32]:
        """Distance of each voxel of ``points`` to the nearest one of ``mask``, by a search tree.

        Returns:
            (n,) for the n voxels of ``points`` in C order; infinite where ``mask`` is empty.
        """
        from scipy.ndimage import binary_erosion
        from scipy.spatial import KDTree

        step = np.array(self.step if self.contiguous else (SEPARATE, *self.step[1:]))
        # The nearest voxel of a mask is always one of its border.
        border = mask & ~binary_erosion(mask)
        if not border.any():
            return np.full(np.count_nonzero(points), np.inf, dtype=np.float32)
        tree = KDTree(np.argwhere(border) * step)
        found, _ = tree.query(np.argwhere(points) * step)
        return np.where(mask[points], 0, found).astype(np.float32)


def bounding_box(mask: Bool, margin: tuple[int, int, int]) -> Box:
    """Find the smallest box around ``mask`` (S, H, W), widened by ``margin`` voxels a side.

    Raises:
        ValueError: the mask is empty.
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if not found.size:
            raise ValueError("an empty mask has no bounding box")
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return widen((box[0], box[1], box[2]), margin)


def widen(box: Box, margin: tuple[int, int, int]) -> Box:
    """Move every side of ``box`` outwards by ``margin``, not below 0."""
    slices, rows, columns = (
        slice(max(0, side.start - by), side.stop + by) for side, by in zip(box, margin, strict=True)
    )
    return slices, rows, columns

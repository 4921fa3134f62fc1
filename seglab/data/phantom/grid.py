"""The phantom's space: a frame in millimetres that any grid samples.

Anatomy is defined in continuous coordinates, so that a small grid shows the
same patient as a large one, only coarser. Arrays are (S, H, W) = (z, x, y):
x runs left to right along axis 1, y from front to back along axis 2, as BraTS
stores them (heads lie on their side).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FRAME_MM = (155.0, 240.0, 240.0)
"""Extent of the whole frame along (z, x, y), whatever the number of voxels."""
WINDOW_MM = ((0.0, 155.0), (40.0, 198.0), (26.0, 226.0))
"""Part of the frame that a head can reach, along (z, x, y)."""


@dataclass(frozen=True)
class Grid:
    """A sampling of the frame: ``slices`` × ``size`` × ``size`` voxels."""

    size: int
    slices: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, H, W) of the whole frame."""
        return self.slices, self.size, self.size

    @cached_property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Voxel edges along (z, x, y)."""
        z, x, y = (mm / count for mm, count in zip(FRAME_MM, self.shape, strict=True))
        return z, x, y

    @cached_property
    def edge_mm(self) -> float:
        """Width over which a voxel of this grid averages a tissue boundary."""
        return max(1.0, math.prod(self.voxel_mm) ** (1 / 3))

    @cached_property
    def window(self) -> tuple[slice, slice, slice]:
        """Index ranges of the part of the frame that a head can reach."""
        z, x, y = (
            slice(int(low // step), min(count, int(np.ceil(high / step))))
            for (low, high), step, count in zip(WINDOW_MM, self.voxel_mm, self.shape, strict=True)
        )
        return z, x, y

    @cached_property
    def axes_mm(self) -> tuple[Array, Array, Array]:
        """Voxel centres of the window along z, x and y, in millimetres of the frame."""
        z, x, y = (
            ((np.arange(part.start, part.stop) + 0.5) * step).astype(np.float32)
            for part, step in zip(self.window, self.voxel_mm, strict=True)
        )
        return z, x, y

    def embed(self, window: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Put an array of the window into a frame of zeros, (S, H, W)."""
        frame = np.zeros(self.shape, window.dtype)
        frame[self.window] = window
        return frame


@dataclass(frozen=True)
class SmoothField:
    """Cubic B-spline through random coefficients: zero mean, about unit variance.

    The coefficients lie on a lattice of ``spacing_mm`` fixed to the frame, so the
    field does not depend on the grid that samples it.
    """

    coefficients: Array
    spacing_mm: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, spacing_mm: float, *, band_pass: bool = False
    ) -> SmoothField:
        """Draw a field.

        ``band_pass`` removes what varies over many knots, and half of the amplitude with it.
        """
        knots = [int(np.ceil(mm / spacing_mm)) + 4 for mm in FRAME_MM]
        values = rng.standard_normal(knots, dtype=np.float32)
        if band_pass:
            values = values - _neighbour_mean(values)
        return cls(values / np.float32(values.std() * _SPLINE_STD), spacing_mm)

    def sample(self, grid: Grid, derivative: int | None = None) -> Array:
        """Values (or the derivative per millimetre along one axis) on the grid's window."""
        values = self.coefficients
        # The innermost axis first: later passes then gather whole contiguous planes.
        for axis in (2, 1, 0):
            values = self._resample(values, axis, grid.axes_mm[axis], axis == derivative)
        return values

    def _resample(self, values: Array, axis: int, at_mm: Array, differentiate: bool) -> Array:
        position = at_mm / np.float32(self.spacing_mm)
        first = np.floor(position).astype(np.intp)
        taps = _spline_taps(position - first, differentiate)
        if differentiate:
            taps = taps / np.float32(self.spacing_mm)
        shape = [1, 1, 1]
        shape[axis] = len(at_mm)
        total = values.take(first, axis) * taps[0].reshape(shape)
        for offset in (1, 2, 3):
            total += values.take(first + offset, axis) * taps[offset].reshape(shape)
        return np.asarray(total, np.float32)


_SPLINE_STD = (151 / 315) ** 1.5
"""Standard deviation of a 3-D cubic B-spline whose coefficients are white, averaged over a cell."""


def _spline_taps(t: Array, differentiate: bool) -> Array:
    """Weights (4, n) of the cubic B-spline, or their derivative, at ``t`` in [0, 1)."""
    if differentiate:
        weights = [-((1 - t) ** 2) / 2, (3 * t - 4) * t / 2, (1 + 2 * t - 3 * t**2) / 2, t**2 / 2]
    else:
        weights = [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ]
    return np.stack(weights).astype(np.float32)


def _neighbour_mean(values: Array) -> Array:
    total = np.zeros_like(values)
    for axis in range(3):
        total += np.roll(values, 1, axis) + np.roll(values, -1, axis)
    return total / np.float32(6)

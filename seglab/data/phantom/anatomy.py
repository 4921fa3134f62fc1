"""A healthy head: outline, folded cortex, white matter, deep nuclei, fluid.

Anatomy is defined in millimetres, so that every grid shows the same head. Arrays are (S, H, W)
= (z, x, y), as BraTS stores them: x runs from right to left, y from front to back, z upwards.
Shapes are signed distances in millimetres, negative inside, on a lattice of about 2 mm; tissue
is cut from them on the voxels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import BSpline

Array = npt.NDArray[np.floating]
Point = tuple[float, float, float]

FRAME_MM = (155.0, 240.0, 240.0)
"""Extent of the whole frame along (z, x, y), whatever the number of voxels."""
WINDOW_MM = ((0.0, 155.0), (44.0, 194.0), (30.0, 222.0))  # part of the frame that a head can reach
CORTEX_MM = 2.8  # thickness of the cortical ribbon


@dataclass(frozen=True)
class Grid:
    """A sampling of the frame: ``slices`` × ``size`` × ``size`` voxels."""

    size: int
    slices: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, H, W) of the whole frame."""
        return self.slices, self.size, self.size

    @property
    def voxel_mm(self) -> Point:
        """Voxel edges along (z, x, y)."""
        return FRAME_MM[0] / self.slices, FRAME_MM[1] / self.size, FRAME_MM[2] / self.size

    @property
    def edge_mm(self) -> float:
        """Width over which a voxel averages a boundary."""
        return max(1.0, math.prod(self.voxel_mm) ** (1 / 3))

    @cached_property
    def window(self) -> tuple[slice, ...]:
        """Index ranges of the part of the frame that a head can reach."""
        return tuple(
            slice(int(low // step), min(count, math.ceil(high / step)))
            for (low, high), step, count in zip(WINDOW_MM, self.voxel_mm, self.shape, strict=True)
        )

    @property
    def strides(self) -> list[int]:
        """Voxels from one node of the lattice to the next."""
        return [2 if step <= 1.3 else 1 for step in self.voxel_mm]

    @cached_property
    def axes_mm(self) -> list[Array]:
        """Positions of the lattice's nodes along z, x and y."""
        return [
            ((np.arange(part.start, part.stop + 1, stride) + 0.5) * step).astype(np.float32)
            for part, step, stride in zip(self.window, self.voxel_mm, self.strides, strict=True)
        ]

    def refine(self, values: Array) -> Array:
        """From the lattice's nodes to the window's voxels, linear in between."""
        for axis in (2, 1, 0):  # the innermost axis first: the largest pass copies whole planes
            if self.strides[axis] == 2:
                values = values.repeat(2, axis)
                along = np.moveaxis(values, axis, 0)
                along[1:-1:2] += along[2::2]
                along[1:-1:2] *= 0.5
        depth, height, width = (part.stop - part.start for part in self.window)
        return values[:depth, :height, :width]


def smooth_field(rng: np.random.Generator, grid: Grid, spacing_mm: float) -> Array:
    """A cubic B-spline on a grid's lattice, the same on every grid: zero mean, unit variance."""
    counts = [math.ceil(mm / spacing_mm) + 4 for mm in FRAME_MM]
    values = rng.standard_normal(counts, dtype=np.float32)
    for axis in range(3):
        along = np.moveaxis(values, axis, 0)
        knots = spacing_mm * np.arange(-3.0, len(along) + 1)
        values = np.moveaxis(BSpline(knots, along, 3)(grid.axes_mm[axis]), 0, axis)
    # Standard deviation of a spline whose coefficients are white, averaged over a cell.
    return np.asarray(values / (151 / 315) ** 1.5, np.float32, order="C")


def ellipsoid(at: Sequence[Array], centre: Point, radii: Point) -> Array:
    """First-order distance to an axis-aligned ellipsoid; exact for a sphere outside its centre."""
    scaled = [((a - c) / r) ** 2 for a, c, r in zip(at, centre, radii, strict=True)]
    reach = np.sqrt(sum(scaled))
    steepness = np.sqrt(sum(s / (r * r) for s, r in zip(scaled, radii, strict=True)))
    return np.asarray(reach * (reach - 1) / np.maximum(steepness, 1e-6))


def tube(at: Sequence[Array], knots: Sequence[tuple[float, float, float, float]]) -> Array:
    """Distance to a chain of tapered capsules through ``(x, y, z, radius)`` knots."""
    capsules = []
    for start, end in itertools.pairwise(knots):
        *along, taper = (b - a for a, b in zip(start, end, strict=True))
        offset = [a - s for a, s in zip(at, start[:3], strict=True)]
        dot = sum(o * a for o, a in zip(offset, along, strict=True))
        t = np.clip(dot / sum(a * a for a in along), 0, 1)
        away2 = sum((o - t * a) ** 2 for o, a in zip(offset, along, strict=True))
        capsules.append(np.sqrt(away2) - (start[3] + t * taper))
    return np.asarray(np.minimum.reduce(capsules))


def smooth_union(distances: Sequence[Array], blend_mm: float) -> Array:
    """Union whose creases are filled to a depth of 0.7 ``blend_mm``."""
    return np.asarray(-blend_mm * np.logaddexp.reduce([-d / blend_mm for d in distances]))


def inside(distance: Array, edge_mm: float) -> Array:
    """Share of a voxel of width ``edge_mm`` that lies inside a boundary, in [0, 1]."""
    return np.asarray(np.clip(0.5 - distance / edge_mm, 0, 1))


@dataclass(frozen=True)
class Brain:
    """A head on a grid: shapes on the nodes of its lattice, tissue in its voxels."""

    grid: Grid
    where: npt.NDArray[np.bool_]  # the n voxels of the head, in the grid's window
    at: list[Array]  # template coordinates x, y and z
    pia: Array
    ventricle: Array
    nuclei: Array
    hemisphere: Array  # 1 in the folded hemispheres, 0 in cerebellum and brainstem
    clefts: list[tuple[Array, Array]]
    """Of each set of them two distances: across, and below its floor."""
    half_width: Array

    def voxels(self, values: Array) -> Array:
        """Values (n,) at the voxels, from those on the lattice."""
        return self.grid.refine(values)[self.where]

    @property
    def white(self) -> Array:
        """Distance to the hemispheres' white matter."""
        nearest = np.minimum.reduce([np.hypot(*cleft) for cleft in self.clefts])
        distance = CORTEX_MM - np.minimum(-self.pia, nearest - self.half_width)
        return np.where(self.hemisphere > 0.5, distance, np.float32(CORTEX_MM))

    @cached_property
    def tissue(self) -> dict[str, Array]:
        """Shares (n,) of the healthy tissues in each voxel; they add up to 1."""
        edge, depth = self.grid.edge_mm, self.voxels(-self.pia)
        folded = self.voxels(self.hemisphere)
        gaps = [np.hypot(self.voxels(across), self.voxels(below)) for across, below in self.clefts]
        gap = np.minimum.reduce(gaps) - self.voxels(self.half_width)
        csf = inside(np.minimum.reduce([gap, depth, self.voxels(self.ventricle)]), edge)
        ribbon = inside(np.minimum(depth, gap) - CORTEX_MM, edge)
        # The leaves of the cerebellum are finer than a voxel: less and less cortex with depth.
        cortex = ribbon * folded + np.clip(1 - depth / 16, 0.2, 0.7) * (1 - folded)
        solid, nuclei = 1 - csf, inside(self.voxels(self.nuclei), edge)
        grey, white = solid * cortex * (1 - nuclei), solid * (1 - cortex) * (1 - nuclei)
        return {"csf": csf, "grey": grey, "nuclei": solid * nuclei, "white": white}


def build_brain(
    rng: np.random.Generator, grid: Grid, centre: Point, push_mm: float, reach_mm: float
) -> Brain:
    """Draw a head; all but its outline gives way to a mass at ``centre``."""
    age = float(rng.beta(2.0, 2.0))
    cx, cy, cz = rng.normal((118.0, 127.0, 75.0), (1.0, 1.5, 1.0)).tolist()
    across, along, up = rng.normal(1.0, (0.025, 0.025, 0.02)).clip(0.93, 1.06).tolist()
    z, x, y = np.meshgrid(*grid.axes_mm, indexing="ij", sparse=True)
    at = [(x - cx) / across, (y - cy) / along, (z - cz) / up + 75]
    relief, sway = smooth_field(rng, grid, 9.0), smooth_field(rng, grid, 32.0)
    cerebrum, *lobes = _lobes(at)
    lobes.append(np.maximum(cerebrum, 51 + 0.04 * np.abs(at[1]) - at[2]))  # the skull's base
    where = grid.refine(smooth_union(lobes, 2.5) + 0.8 * relief) < 0.6
    pia = smooth_union(lobes, 0.8) + 0.8 * relief
    at = _before(at, centre, push_mm, reach_mm)
    deep = _deep([at[0] - 1.2 * sway, *at[1:]], 4.5 * age - 1.5)
    # Sulci gape with age, at the surface more than at their floor.
    width = (0.35 + 0.75 * age) * np.clip(1.25 + pia / 24, 0.45, 1.25)
    width = width * np.clip(1 + 0.45 * relief, 0.3, 2.0)
    return Brain(grid, where, at, pia, *deep, *_clefts(rng, grid, at, sway), width)


def _before(at: Sequence[Array], centre: Point, push_mm: float, reach_mm: float) -> list[Array]:
    """Where each point came from before a mass pushed it outwards."""
    offset = [a - c for a, c in zip(at, centre, strict=True)]
    # Rises from 0 at the centre, peaks near the mass' surface, dies out at a few radii.
    far2 = sum(o**2 for o in offset) / reach_mm**2
    back = 1 - push_mm / reach_mm * np.exp((1 - far2) / 2)
    return [c + back * o for c, o in zip(centre, offset, strict=True)]


def _lobes(at: Sequence[Array]) -> list[Array]:
    x, y, z = np.abs(at[0]), *at[1:]
    stem = [(0, 10, 66, 15), (0, 9, 44, 16), (0, 17, 22, 10), (0, 22, 2, 8)]
    return [
        ellipsoid((x / (1 + 0.0012 * y), y, z), (17, 0, 82), (50, 85, 58)),
        ellipsoid((x, y, z - 0.22 * (y + 12)), (40, -14, 50), (21, 43, 22)),
        ellipsoid((x, y, z), (24, 43, 33), (31, 30, 25)),
        tube((x, y, z), stem),
    ]


def _clefts(
    rng: np.random.Generator, grid: Grid, at: Sequence[Array], sway: Array
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Hemispheres and clefts as ``Brain`` holds them.

    Sulci are the zero surfaces of a field that varies along the brain's surface, hardly with depth.
    """
    x, y, z = at
    cerebrum, temporal, cerebellum, stem = _lobes(at)
    hemisphere = 1 - inside(np.maximum(np.minimum(cerebellum - 0.5, stem), z - 58), 2.0)
    values = rng.standard_normal((24, 34, 34), dtype=np.float32)  # 8 mm apart
    values = values - ndimage.uniform_filter(values, 3, mode="wrap")  # no wide blank regions
    radius = np.sqrt((x / 60) ** 2 + (y / 86) ** 2 + ((z - 76) / 60) ** 2) + 0.05
    out = radius**-0.75 / 8
    position = [(z - 76) * out + 10.5, x * out + 16, y * out + 16]
    field = ndimage.map_coordinates(values, position, order=3, prefilter=False, mode="nearest")
    steps = [float(axis[1] - axis[0]) for axis in grid.axes_mm]
    folds = field / np.sqrt(sum(part**2 for part in np.gradient(field, *steps)) + 1e-5)
    floor = -np.minimum(cerebrum, temporal) - float(rng.uniform(15, 22)) * (1 + 0.25 * sway)
    middle = x - 1.2 * sway
    bridge = ellipsoid((middle, y, z), (0, 2, 74), (40, 46, 27))
    beside = np.maximum(35 - np.abs(x), np.abs(y + 14) - 32)
    return hemisphere, [
        (folds, np.maximum(floor, 0) + 30 * (1 - hemisphere)),
        (middle, np.maximum(-bridge, 0)),
        (z - (69 + 0.22 * (y + 12) + 2 * sway), np.maximum(beside, 0)),  # the Sylvian fissure
    ]


def _deep(at: Sequence[Array], widened_mm: float) -> tuple[Array, Array]:
    half = [np.abs(at[0]), *at[1:]]
    front = [(9, -31, 80, 2.5), (8, -20, 86, 4), (9, 2, 92, 3.5)]
    back = [(17, 27, 87, 5), (23, 46, 79, 2.2), (24, 62, 76, 0.3)]
    lateral = tube(half, [*front, *back])
    temporal = tube(half, [(19, 28, 84, 3.5), (28, 18, 66, 1.8), (32, -6, 56, 0.5)])
    third = np.maximum(half[0] - 0.6, ellipsoid(half, (0, 2, 73), (9, 14, 10)))
    fourth = ellipsoid(half, (0, 26, 38), (7, 4.5, 10))
    caudate = tube(half, [(15, -24, 80, 5), (16, -10, 90, 3.5), (19, 10, 93, 2)])
    lentiform = ellipsoid(half, (26, -8, 76), (6.5, 17, 10))
    thalamus = ellipsoid(half, (11, 12, 78), (9, 14, 9))
    fluid = np.minimum.reduce([lateral, temporal, third, fourth])
    return fluid - widened_mm, np.minimum.reduce([caudate, lentiform, thalamus])

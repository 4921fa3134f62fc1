"""A healthy brain: outline, folded cortex, white matter, deep nuclei, ventricles.

Template coordinates are millimetres with x from the midline, y from the middle of
the brain (front negative) and z from the bottom of the frame (up).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from seglab.data.phantom.grid import Array, Grid, Mask, SmoothField
from seglab.data.phantom.shapes import (
    ellipsoid,
    inside,
    smooth_union,
    tube,
    within_sheet,
)

CORTEX_MM = 2.8
"""Thickness of the cortical ribbon."""


@dataclass(frozen=True)
class Points:
    """The voxels of one brain, flattened.

    ``x``, ``y``, ``z`` are template coordinates (n,), float32; ``where`` marks the
    voxels in the grid's window, in the same order.
    """

    grid: Grid
    where: Mask
    x: Array
    y: Array
    z: Array

    def of(self, field: SmoothField, derivative: int | None = None) -> Array:
        """Values (n,) of a field at these points; fields stay fixed to the frame."""
        values: Array = field.sample(self.grid, derivative)[self.where]
        return values

    def scatter(self, values: Array) -> Array:
        """Put values (n,) back into a window of zeros."""
        window = np.zeros(self.where.shape, np.float32)
        window[self.where] = values
        return window


@dataclass(frozen=True)
class Brain:
    """Volume shares (n,) of the healthy tissues, and distances the lesions need."""

    points: Points
    depth: Array
    """Millimetres below the pial surface."""
    cortex_gap: Array
    """Millimetres to the nearest cortex; negative within it and below the tentorium."""
    ventricle: Array
    """Signed millimetres to the ventricles' wall."""
    csf: Array
    grey: Array
    nuclei: Array
    white: Array


@dataclass(frozen=True)
class Anatomy:
    """What makes one head differ from another; drawn once, sampled by any grid."""

    centre_mm: tuple[float, float, float]
    tilt_rad: tuple[float, float]
    scale: tuple[float, float, float]
    ventricle_mm: float
    """Added to the ventricles' radius."""
    sulcus_mm: float
    """Half-width of the sulci at the surface; grows with age."""
    sulcus_depth_mm: float
    folds: SmoothField
    relief: SmoothField
    """Irregularity of the outline."""
    sway: SmoothField
    """Bends what should be straight: midline, ventricles, sulcal floors."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """Draw a head."""
        age = rng.beta(2.0, 2.0)
        x, y, z = rng.normal((118.0, 127.0, 0.0), (1.0, 1.5, 1.0))
        sideways, inplane = rng.normal(0.0, 0.02, 2)
        across, along, up = rng.normal(1.0, (0.025, 0.025, 0.02)).clip(0.93, 1.06)
        return cls(
            centre_mm=(float(x), float(y), float(z)),
            tilt_rad=(float(sideways), float(inplane)),
            scale=(float(across), float(along), float(up)),
            ventricle_mm=float(-1.5 + 4.5 * age + rng.normal(0.0, 0.5)),
            sulcus_mm=float(0.35 + 0.75 * age + rng.normal(0.0, 0.08)),
            sulcus_depth_mm=float(rng.uniform(20.0, 28.0)),
            folds=SmoothField.draw(rng, 8.5, band_pass=True),
            relief=SmoothField.draw(rng, 9.0),
            sway=SmoothField.draw(rng, 32.0),
        )

    def points(self, grid: Grid) -> tuple[Points, Array]:
        """The brain's voxels on ``grid`` and their depth (n,) below the pial surface, in mm."""
        z, x, y = np.meshgrid(*grid.axes_mm, indexing="ij", sparse=True)
        tx, ty, tz = self._to_template(x, y, z)
        parts = _lobes(np.abs(tx), ty, tz)
        uneven = self.relief.sample(grid)
        hull = smooth_union(parts, 7.0) + np.float32(0.8) * uneven
        where = hull < 0.6
        pia = smooth_union([part[where] for part in parts], 2.5) + np.float32(0.8) * uneven[where]
        x, y, z = (np.broadcast_to(axis, where.shape)[where] for axis in (tx, ty, tz))
        return Points(grid, where, x, y, z), -pia

    def _to_template(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Undo the pose; the results broadcast together, as the arguments do."""
        cx, cy, cz = self.centre_mm
        (sideways, inplane), (across, along, up) = self.tilt_rad, self.scale
        dx, dy, dz = x - np.float32(cx), y - np.float32(cy), z - np.float32(cz)
        # Small angles: a shear is a rotation to within a tenth of a millimetre.
        tx = (dx + np.float32(inplane) * dy + np.float32(sideways) * (dz - 75)) / np.float32(across)
        ty: Array = np.divide(dy - np.float32(inplane) * dx, np.float32(along))
        tz: Array = np.divide(dz - np.float32(sideways) * dx - 75, np.float32(up)) + 75
        return tx, ty, tz

    def build(self, points: Points, depth: Array) -> Brain:
        """Fill the outline with tissue; ``points`` may be displaced by a mass."""
        edge = points.grid.edge_mm
        sway = points.of(self.sway)
        cerebrum = _is_cerebrum(points)
        sulcus = self._sulcus_distance(points, sway, cerebrum)
        openness = np.clip(1.25 - depth / np.float32(24), 0.45, 1.25)
        openness = openness * np.clip(1 + np.float32(0.45) * points.of(self.relief), 0.3, 2.0)
        width = np.float32(self.sulcus_mm) * openness
        ventricle = _ventricles(points, sway) - np.float32(self.ventricle_mm)
        fluids = [depth, ventricle, _cisterns(points, sway)]
        csf = np.maximum(within_sheet(sulcus, width, edge), inside(np.minimum.reduce(fluids), edge))
        cortex_gap = np.minimum(depth, sulcus - width) - np.float32(CORTEX_MM)
        ribbon = inside(cortex_gap, edge) * cerebrum + self._folia(points, depth) * (1 - cerebrum)
        nuclei = inside(_deep_nuclei(points, sway), edge)
        solid = 1 - csf
        # White matter is not uniform: fibres mix with some grey, more of it deep and behind.
        ribbon = np.maximum(ribbon, np.clip(np.float32(0.12) * (1 + sway), 0, 0.4))
        grey = solid * ribbon * (1 - nuclei)
        white = solid * (1 - ribbon) * (1 - nuclei)
        spreadable = np.where(cerebrum > 0.5, cortex_gap, np.float32(-CORTEX_MM))
        return Brain(points, depth, spreadable, ventricle, csf, grey, solid * nuclei, white)

    def _sulcus_distance(self, points: Points, sway: Array, cerebrum: Array) -> Array:
        """Distance to the nearest fold: zero surfaces of a field, down to a floor, and fissures."""
        value = points.of(self.folds)
        slope2 = sum(points.of(self.folds, axis) ** 2 for axis in range(3))
        across = np.abs(value) / np.sqrt(slope2 + np.float32(1e-4))
        floor = np.float32(self.sulcus_depth_mm) * (1 + np.float32(0.25) * sway)
        below = np.maximum(-_convexity(points) - floor, 0)
        folds = np.hypot(across, below) + np.float32(30) * (1 - cerebrum)
        fissures = np.minimum(_midline_fissure(points, sway), _sylvian(points, sway))
        nearest: Array = np.minimum(folds, fissures)
        return nearest

    def _folia(self, points: Points, depth: Array) -> Array:
        """Grey share of cerebellum and brainstem: leaves of cortex on a white tree."""
        x, y, z = np.abs(points.x), points.y, points.z
        wave_mm = 5.5
        phase = np.hypot(z - 34, (y - 30) * np.float32(0.9)) + np.float32(0.08) * x
        leaves = np.sin(
            phase * np.float32(2 * np.pi / wave_mm) + np.float32(0.6) * points.of(self.sway)
        )
        # A voxel that spans a leaf sees its mean: attenuate as a box of that width does.
        contrast = np.float32(0.35 * np.sinc(min(points.grid.edge_mm / wave_mm, 1.0)))
        cortex = np.clip(1.15 - depth / np.float32(16), 0.0, 0.75) + contrast * leaves
        stem = np.maximum(_brainstem(x, y, z), np.float32(-4)) < 0
        return np.where(stem, np.float32(0.25), np.clip(cortex, 0, 1)).astype(np.float32)


def push_aside(
    points: Points, centre: tuple[float, float, float], push_mm: float, reach_mm: float
) -> Points:
    """Where each point came from before a mass at ``centre`` pushed it outwards."""
    dx, dy, dz = (
        a - np.float32(c) for a, c in zip((points.x, points.y, points.z), centre, strict=True)
    )
    r = np.sqrt(dx**2 + dy**2 + dz**2) + np.float32(1e-3)
    # Rises from 0 at the centre, peaks near the mass' surface, dies out at a few radii.
    u = r / np.float32(reach_mm)
    back = np.float32(push_mm) * u * np.exp((1 - u**2) / 2) / r
    return replace(points, x=points.x - back * dx, y=points.y - back * dy, z=points.z - back * dz)


def _lobes(x: Array, y: Array, z: Array) -> list[Array]:
    """Distances to cerebrum, temporal lobe, cerebellum and brainstem of one (mirrored) half."""
    skull_base = np.float32(51) + np.float32(0.04) * np.abs(y) - z
    cerebrum = np.maximum(_cerebrum(x, y, z), skull_base)
    cerebellum = ellipsoid(x, y, z, (24.0, 43.0, 33.0), (31.0, 30.0, 25.0))
    return [cerebrum, _temporal(x, y, z), cerebellum, _brainstem(x, y, z)]


def _convexity(points: Points) -> Array:
    """Distance to the convex surface that the folds start from: no folds start at the base."""
    x, y, z = np.abs(points.x), points.y, points.z
    return np.minimum(_cerebrum(x, y, z), _temporal(x, y, z))


def _cerebrum(x: Array, y: Array, z: Array) -> Array:
    egg = x / (1 + np.float32(0.0012) * y)
    return ellipsoid(egg, y, z, (17.0, 0.0, 82.0), (50.0, 85.0, 58.0))


def _temporal(x: Array, y: Array, z: Array) -> Array:
    rising = z - np.float32(0.22) * (y + 12)
    return ellipsoid(x, y, rising, (40.0, -14.0, 50.0), (21.0, 43.0, 22.0))


def _brainstem(x: Array, y: Array, z: Array) -> Array:
    return tube(x, y, z, [(0, 10, 66, 15), (0, 9, 44, 16), (0, 17, 22, 10), (0, 22, 2, 8)])


def _is_cerebrum(points: Points) -> Array:
    """1 in the folded cerebrum and temporal lobes, 0 in cerebellum and brainstem."""
    x, y, z = np.abs(points.x), points.y, points.z
    hind = smooth_union(
        [ellipsoid(x, y, z, (24.0, 43.0, 33.0), (31.5, 30.5, 25.5)), _brainstem(x, y, z)], 2.0
    )
    return 1 - inside(np.maximum(hind, z - 58), 2.0)


def _midline_fissure(points: Points, sway: Array) -> Array:
    x, y, z = points.x - np.float32(1.2) * sway, points.y, points.z
    bridge = ellipsoid(x, y, z, (0.0, 2.0, 74.0), (40.0, 46.0, 27.0))
    return np.hypot(x, np.maximum(-bridge, 0))


def _sylvian(points: Points, sway: Array) -> Array:
    """The cleft between the temporal lobe and the lobes above it, ending at the insula."""
    x, y, z = np.abs(points.x), points.y, points.z
    sheet = z - (np.float32(69) + np.float32(0.22) * (y + 12) + 2 * sway)
    beyond = np.maximum(np.maximum(35 - x, np.abs(y + 14) - 32), 0)
    insula = np.hypot(x - np.float32(37), np.maximum(np.hypot(y + 10, sheet) - 13, 0))
    cleft: Array = np.minimum(np.hypot(sheet, beyond), insula)
    return cleft


def _cisterns(points: Points, sway: Array) -> Array:
    """The fluid around the midbrain: wide in front and behind, thin on its sides."""
    x, y, z = np.abs(points.x), points.y, points.z
    gap = np.float32(0.3) + np.float32(0.11) * np.abs(y - 10) * np.clip(
        1 - x / np.float32(16), 0, 1
    )
    ring = np.abs(_brainstem(x, y, z) - gap) - np.maximum(gap + np.float32(0.7) * sway, 0)
    fluid: Array = np.maximum(ring, np.abs(z - 57) - 9)
    return fluid


def _ventricles(points: Points, sway: Array) -> Array:
    x, y, z = points.x - np.float32(1.2) * sway, points.y, points.z
    side = np.abs(x)
    lateral = tube(
        side,
        y,
        z,
        [
            (9, -31, 80, 2.5),
            (8, -20, 86, 4),
            (9, 2, 92, 3.5),
            (17, 27, 87, 5),
            (23, 46, 79, 2.2),
            (24, 62, 76, 0.3),
        ],
    )
    temporal = tube(side, y, z, [(19, 28, 84, 3.5), (28, 18, 66, 1.8), (32, -6, 56, 0.5)])
    third = np.maximum(side - np.float32(0.6), ellipsoid(x, y, z, (0, 2, 73), (9, 14, 10)))
    fourth = ellipsoid(side, y, z, (0, 26, 38), (7, 4.5, 10))
    return np.minimum(np.minimum(lateral, temporal), np.minimum(third, fourth))


def _deep_nuclei(points: Points, sway: Array) -> Array:
    x, y, z = np.abs(points.x - np.float32(1.2) * sway), points.y, points.z
    caudate = tube(x, y, z, [(15, -24, 80, 5), (16, -10, 90, 3.5), (19, 10, 93, 2)])
    lentiform = ellipsoid(x, y, z, (26, -8, 76), (6.5, 17, 10))
    thalamus = ellipsoid(x, y, z, (11, 12, 78), (9, 14, 9))
    return np.minimum(np.minimum(caudate, lentiform), thalamus)


def lies_in_white_matter(x: float, y: float, z: float, margin_mm: float) -> bool:
    """Whether a template point is in a hemisphere, off the midline, ``margin_mm`` under the pia."""
    side, along, up = (np.array([value], np.float32) for value in (abs(x), y, z))
    cerebrum, temporal, *_ = _lobes(side, along, up)
    return bool(side[0] > 12 and min(cerebrum[0], temporal[0]) < -margin_mm)

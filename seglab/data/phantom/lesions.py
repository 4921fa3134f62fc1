"""Tumours: a core with necrosis and an enhancing rim, and oedema along the white matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from seglab.data.phantom.anatomy import Brain, Points, lies_in_white_matter
from seglab.data.phantom.grid import Array, SmoothField
from seglab.data.phantom.shapes import Point, ellipsoid, inside, smooth_union

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
"""Values of a BraTS label map."""

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Lesion:
    """One tumour, before any grid samples it. Lengths are millimetres."""

    grade: Literal["HGG", "LGG"]
    centre: Point
    radii: Point
    satellite: Point | None
    """Centre of a second, smaller focus."""
    rim_mm: float
    """Thickness of the enhancing rim; 0 where nothing enhances."""
    reach_mm: float
    """How far oedema runs in open white matter."""
    contrast: float
    """Share of water-rich tissue in oedema, in (0, 1]; the rest is white matter."""
    core_contrast: float
    """Share of tumour tissue in the core, in (0, 1]."""
    fluid: float
    """0 where the core is solid, 1 where it is a cyst."""
    ramp_mm: float
    """Width over which oedema fades out."""
    rater_mm: float
    """How far the expert drew outside (or inside, if negative) the half-level boundary."""
    lumps: SmoothField
    fingers: SmoothField
    hand: SmoothField
    """The unsteadiness of the expert's hand."""

    @property
    def radius_mm(self) -> float:
        """Radius of the sphere with the core's volume."""
        return math.prod(self.radii) ** (1 / 3)

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float, visibility: float) -> Lesion:
        """Draw a tumour.

        Args:
            rng: source of all that is random.
            size: quantile of its size among patients, in [0, 1].
            visibility: quantile of its contrast among patients, in [0, 1].
        """
        low_grade = bool(rng.random() < 0.2)
        radius = 6.0 + 17.0 * size
        stretch = rng.uniform(0.8, 1.25, 3)
        radii = radius * stretch / np.prod(stretch) ** (1 / 3)
        centre = _draw_centre(rng, radius)
        second = _draw_centre(rng, radius) if rng.random() < 0.15 else None
        return cls(
            grade="LGG" if low_grade else "HGG",
            centre=centre,
            radii=(float(radii[0]), float(radii[1]), float(radii[2])),
            satellite=second,
            rim_mm=0.0 if low_grade else float(rng.uniform(1.8, 2.2 + radius / 5)),
            reach_mm=float(rng.uniform(5, 26) * (0.4 + 0.6 * size)),
            contrast=float(0.46 + 0.48 * visibility),
            core_contrast=float(0.6 + 0.4 * visibility) if low_grade else 1.0,
            fluid=float(rng.beta(0.9, 1.6)),
            ramp_mm=float(rng.uniform(1.5, 6.0)),
            rater_mm=float(rng.normal(0.2, 0.5)),
            lumps=SmoothField.draw(rng, float(np.clip(0.8 * radius, 5, 13))),
            fingers=SmoothField.draw(rng, 11.0),
            hand=SmoothField.draw(rng, 7.0),
        )


@dataclass(frozen=True)
class Growth:
    """A lesion on the voxels of one brain: shares (n,) in [0, 1] and the expert's labels."""

    oedema: Array
    necrosis: Array
    enhancing: Array
    labels: Labels
    """(n,) uint8 with the values of a BraTS label map."""


def grow(lesion: Lesion, brain: Brain) -> Growth:
    """Grow a lesion into a brain."""
    points = brain.points
    edge = max(points.grid.edge_mm, 1.5)
    core = _core_distance(lesion, points)
    rim = core + _rim_thickness(lesion, points)
    spread = _oedema_distance(lesion, brain, core)
    core_share = np.float32(lesion.core_contrast) * inside(core, edge)
    # The rim lies within the core, so shares nest; without a rim nothing is left to enhance.
    necrosis = np.float32(lesion.core_contrast) * inside(rim, edge)
    water = inside(spread, max(points.grid.edge_mm, lesion.ramp_mm))
    mottle = 1 + np.float32(0.18) * points.of(lesion.hand)
    oedema = np.clip(np.float32(lesion.contrast) * water * mottle, 0, 1) * (1 - core_share)
    labels = _draw_labels(lesion, brain, core, rim, spread)
    return Growth(oedema, necrosis, core_share - necrosis, labels)


def _draw_labels(lesion: Lesion, brain: Brain, core: Array, rim: Array, spread: Array) -> Labels:
    """What the expert draws: the boundaries, a little off, without the fluid spaces."""
    off = np.float32(lesion.rater_mm) + np.float32(0.7) * brain.points.of(lesion.hand)
    labels = np.zeros(core.shape, np.uint8)
    labels[(spread < off) & (brain.csf < 0.5)] = OEDEMA
    in_core = core < np.float32(0.5) * off
    labels[in_core] = NECROSIS
    if lesion.rim_mm > 0:
        labels[in_core & (rim >= 0)] = ENHANCING
    return labels


def _core_distance(lesion: Lesion, points: Points) -> Array:
    parts = [ellipsoid(points.x, points.y, points.z, lesion.centre, lesion.radii)]
    if lesion.satellite is not None:
        small = (0.45 * lesion.radius_mm,) * 3
        parts.append(ellipsoid(points.x, points.y, points.z, lesion.satellite, small))
    lumpiness = np.float32(0.16 * lesion.radius_mm)
    return smooth_union(parts, 4.0) + lumpiness * points.of(lesion.lumps)


def _rim_thickness(lesion: Lesion, points: Points) -> Array:
    """Millimetres of enhancing rim, with gaps where the field is low."""
    uneven = 1 + np.float32(0.7) * points.of(lesion.fingers)
    thickness: Array = np.float32(lesion.rim_mm) * np.maximum(uneven, 0)
    return thickness


def _oedema_distance(lesion: Lesion, brain: Brain, core: Array) -> Array:
    """Signed distance to the oedema's front, which runs far in white matter only."""
    points = brain.points
    passable = np.clip((brain.cortex_gap + 1) / np.float32(4), 0, 1)
    passable = passable * (1 - np.float32(0.6) * brain.nuclei)
    other_side = (np.sign(points.x) != np.sign(lesion.centre[0])) & (np.abs(points.x) > 3)
    passable = np.where(other_side, np.float32(0.35) * passable, passable)
    fingers = np.maximum(1 + np.float32(0.55) * points.of(lesion.fingers), 0.1)
    reach = np.float32(lesion.reach_mm) * fingers * (np.float32(0.12) + np.float32(0.88) * passable)
    distance: Array = core - reach
    return distance


def _draw_centre(rng: np.random.Generator, radius_mm: float) -> Point:
    """A point of the hemispheres' white matter where a core of that size has room."""
    while True:
        x, y, z = rng.uniform((-58, -62, 46), (58, 66, 124))
        if lies_in_white_matter(x, y, z, margin_mm=4 + 0.55 * radius_mm):
            return float(x), float(y), float(z)

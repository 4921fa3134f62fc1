"""What shines on FLAIR and is not tumour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seglab.data.phantom.anatomy import Brain, lies_in_white_matter
from seglab.data.phantom.grid import Array, SmoothField
from seglab.data.phantom.shapes import Point, ellipsoid, inside


@dataclass(frozen=True)
class Spot:
    """An ellipsoid of gliosis: bright on FLAIR and T2, never enhancing. Millimetres."""

    centre: Point
    radii: Point
    strength: float
    """Share of water signal it adds, in (0, 1]."""


@dataclass(frozen=True)
class Mimics:
    """Distractors of one head."""

    caps_mm: float
    """Thickness of the caps on the ventricles' horns."""
    caps_strength: float
    spots: tuple[Spot, ...]
    flow: float
    """Share of fluid at the skull base that flowed in after the inversion pulse."""
    patches: SmoothField

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Mimics:
        """Draw the distractors of a head."""
        count = int(rng.poisson(2.5))
        return cls(
            caps_mm=float(rng.gamma(2.0, 1.6)),
            caps_strength=float(rng.uniform(0.3, 0.75)),
            spots=tuple(draw_spot(rng) for _ in range(count)),
            flow=float(rng.beta(1.2, 2.0)),
            patches=SmoothField.draw(rng, 9.0),
        )

    def gliosis(self, brain: Brain) -> Array:
        """Share (n,) of water-rich scar: periventricular caps and spots in the white matter."""
        points = brain.points
        edge = points.grid.edge_mm
        front = np.hypot(points.y + 36, points.z - 82) / np.float32(13)
        back = np.hypot(points.y - 52, points.z - 80) / np.float32(15)
        horn = np.maximum(np.exp(-(front**2)), np.exp(-(back**2)))
        uneven = 1 + np.float32(0.4) * points.of(self.patches)
        caps = inside(brain.ventricle - np.float32(self.caps_mm) * horn * uneven, max(edge, 2.5))
        share = np.float32(self.caps_strength) * np.where(horn > 0.15, caps, 0)
        for spot in self.spots:
            blob = ellipsoid(points.x, points.y, points.z, spot.centre, spot.radii)
            blob = blob + np.float32(0.2 * min(spot.radii)) * points.of(self.patches)
            share = np.maximum(share, np.float32(spot.strength) * inside(blob, max(edge, 2.0)))
        return np.asarray(share, np.float32)

    def inflow(self, brain: Brain) -> Array:
        """Share (n,) of the voxel that escaped inversion: bright on FLAIR alone.

        Fresh fluid and blood enter the slab from below, so it lies at the skull
        base, in and along the fluid spaces.
        """
        points = brain.points
        low = np.clip((62 - points.z) / np.float32(25), 0, 1)
        near_fluid = np.clip(1 - brain.depth / np.float32(5), 0, 1)
        patchy = np.clip(points.of(self.patches) - np.float32(0.3), 0, 1.2)
        share: Array = np.float32(0.24 * self.flow) * low * near_fluid * patchy
        return share

    def vessels(self, brain: Brain) -> Array:
        """Share (n,) of fluid spaces filled by veins: bright with contrast agent, else dark."""
        points = brain.points
        sinus = np.hypot(points.x, brain.depth - 1) - np.float32(3)
        sinus = np.where((points.y > 0) & (points.z > 60), sinus, np.float32(9))
        veins = np.clip(points.of(self.patches) * np.float32(1.5) - np.float32(1.6), 0, 1)
        share: Array = np.maximum(inside(sinus, points.grid.edge_mm), veins)
        return share


def draw_spot(rng: np.random.Generator) -> Spot:
    """Draw a small focus of gliosis in the white matter."""
    while True:
        x, y, z = rng.uniform((-50, -60, 70), (50, 65, 118))
        if lies_in_white_matter(x, y, z, margin_mm=10):
            break
    radii = rng.uniform(1.2, 4.0) * rng.uniform(0.7, 1.4, 3)
    return Spot(
        centre=(float(x), float(y), float(z)),
        radii=(float(radii[0]), float(radii[1]), float(radii[2])),
        strength=float(rng.uniform(0.35, 0.8)),
    )

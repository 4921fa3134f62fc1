"""Tumours, and what shines like one.

A tumour is a core, either necrosis inside an enhancing rim or all solid, and oedema that runs
along the white matter, more to one side than to the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from seglab.data.phantom.anatomy import Array, Brain, Point, ellipsoid, inside, smooth_field

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4  # values of a BraTS label map
Labels = npt.NDArray[np.uint8]
Difficulty = Literal["usual", "faint", "distractor"]
"""Two kinds are hard: a small lesion hardly brighter than its surroundings; and bright scars
that are no tumour, one of them as large as one."""


@dataclass(frozen=True)
class Lesion:
    """One tumour, before any grid samples it. Lengths are millimetres."""

    enhances: bool
    centre: Point
    radius_mm: float
    reach_mm: float
    """How far oedema runs in open white matter."""
    contrast: float
    """Share of water-rich tissue in oedema, in (0, 1]; the rest is white matter."""

    @classmethod
    def draw(cls, rng: np.random.Generator, ranks: list[float], difficulty: Difficulty) -> Lesion:
        """Draw a tumour whose size, visibility and kind have ``ranks`` in [0, 1] among patients."""
        size, visibility, kind = ranks
        if faint := difficulty == "faint":
            size, visibility = 0.1 * size, 0.3 * visibility - 0.6
        return cls(
            enhances=kind > 1 / 4 and not faint,
            centre=_white_matter(rng),
            radius_mm=6 + 17 * size,
            reach_mm=float(rng.uniform(5, 24)) * (0.4 + 0.6 * size),
            contrast=0.5 + 0.45 * visibility,
        )


def grow(rng: np.random.Generator, lesion: Lesion, brain: Brain) -> tuple[dict[str, Array], Labels]:
    """Grow a lesion into a brain.

    Returns shares (n,) of ``solid`` tumour, ``cyst`` and ``enhancing`` tumour in the brain's
    voxels and of ``oedema`` in the rest, and the expert's labels (n,), uint8 of a BraTS map.
    """
    grid, at, radius = brain.grid, brain.at, lesion.radius_mm
    coarse = smooth_field(rng, grid, min(max(0.8 * radius, 5.0), 13.0))
    medium, fine = smooth_field(rng, grid, 11.0), smooth_field(rng, grid, 6.0)
    a, b, c = (radius * rng.uniform(0.8, 1.25, 3)).tolist()
    core: Array = ellipsoid(at, lesion.centre, (a, b, c)) + radius * (0.16 * coarse + 0.06 * fine)
    # The rim has gaps where the fields are low, and none where nothing enhances.
    rim_mm = float(rng.uniform(2.0, 2.4 + radius / 5)) * lesion.enhances
    rim: Array = core + rim_mm * np.maximum(1 + 0.6 * medium + 0.3 * fine, 0)
    # Oedema runs far in open white matter only, and hardly to the other side.
    permeable = np.clip((1 - brain.white) / 4, 0, 1) * (1 - 0.6 * inside(brain.nuclei, 2.0))
    permeable *= np.where(at[0] * np.sign(lesion.centre[0]) < -3, 0.35, 1)
    reach = lesion.reach_mm * np.maximum(1 + 0.55 * medium, 0.1) * (0.12 + 0.88 * permeable)
    x, y, z = (lesion.centre + rng.normal(0, 0.45 * radius, 3)).tolist()
    front: Array = np.minimum(core, ellipsoid(at, (x, y, z), (a, b, c))) - reach
    core, rim, front, fine, coarse = map(brain.voxels, (core, rim, front, fine, coarse))
    edge, strength = max(grid.edge_mm, 1.5), 1.0 if lesion.enhances else lesion.contrast
    tumour, necrotic = strength * inside(core, edge), strength * inside(rim, edge)
    water = inside(front, max(grid.edge_mm, float(rng.uniform(1.5, 6.0))))
    oedema = np.clip(lesion.contrast * water * (1 + 0.15 * fine), 0, 1)
    cyst = necrotic * np.clip(float(rng.beta(0.6, 2.4)) + 0.2 * coarse + 0.1 * fine, 0, 1)
    # What the expert draws: the boundaries, a little off, without the fluid spaces.
    off = float(rng.normal(0.2, 0.5)) + 0.7 * fine
    in_core, labels = core < 0.5 * off, np.zeros(core.shape, np.uint8)
    labels[(front < off) & (brain.tissue["csf"] < 0.5)] = OEDEMA
    labels[in_core] = NECROSIS
    labels[in_core & (rim >= 0) & lesion.enhances] = ENHANCING
    shares = {
        "oedema": oedema,
        "solid": necrotic - cyst,
        "cyst": cyst,
        "enhancing": tumour - necrotic,
    }
    return shares, labels


def _white_matter(rng: np.random.Generator) -> Point:
    """A point deep in one hemisphere, one time in six in a temporal lobe."""
    boxes = ((18, -46, 70), (38, 50, 108)), ((34, -34, 46), (42, 8, 56))
    x, y, z = rng.uniform(*boxes[int(rng.random() < 1 / 6)]).tolist()
    return float(rng.choice((-x, x))), y, z


def gliosis(
    rng: np.random.Generator, brain: Brain, lesion: Lesion, difficulty: Difficulty
) -> Array:
    """Share (n,) of scar, bright on FLAIR and T2: caps on the ventricles' horns, and spots."""
    (_, y, z), hard = brain.at, difficulty == "distractor"
    edge, patches = max(brain.grid.edge_mm, 2.5), smooth_field(rng, brain.grid, 9.0)
    horn = np.minimum(np.hypot(y + 36, z - 82) / 13, np.hypot(y - 52, z - 80) / 15)
    horn = np.exp(-(horn**2)) * (float(rng.gamma(2.0, 1.6)) + 4.0 * hard)
    caps = inside(brain.ventricle - horn * (1 + 0.4 * patches), edge)
    share = float(rng.uniform(0.3, 0.75)) * np.where(horn > 0.3, caps, 0)
    spots = [(_white_matter(rng), rng.uniform(1.2, 5.0, 3)) for _ in range(rng.poisson(3))]
    if hard:  # as large as a tumour, in the other hemisphere
        side, front, _ = lesion.centre
        spots.append(((-math.copysign(34, side), -0.6 * front, 92.0), np.array([11.0, 14.0, 11.0])))
    for centre, radii in spots:
        a, b, c = radii.tolist()
        blob = ellipsoid(brain.at, centre, (a, b, c)) + 0.15 * a * patches
        share = np.maximum(share, float(rng.uniform(0.5, 0.9)) * inside(blob, edge))
    return brain.voxels(share)


def vessels(rng: np.random.Generator, brain: Brain) -> Array:
    """Share (n,) of the fluid spaces that veins fill; bright with contrast agent."""
    veins = np.clip(1.5 * smooth_field(rng, brain.grid, 9.0) - 1.8, 0, 1)
    x, y, z = brain.at
    sinus = inside(np.hypot(x, brain.pia + 1) - 3, brain.grid.edge_mm) * ((y > 0) & (z > 60))
    return brain.voxels(np.maximum(sinus, veins))

"""One synthetic patient, from a seed to images and labels.

A tumour is a core, either necrosis inside an enhancing rim or all solid, and oedema around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from seglab.data.phantom.anatomy import (
    Array,
    Brain,
    Grid,
    Point,
    build_brain,
    ellipsoid,
    inside,
    smooth_field,
)

PARTS = NECROSIS, OEDEMA, ENHANCING = 1, 2, 4  # values of a BraTS label map
Labels = npt.NDArray[np.uint8]
Difficulty = Literal["usual", "faint", "distractor"]
"""Two kinds are hard: a small lesion hardly brighter than its surroundings; and bright scars
that are no tumour, one of them as large as one."""
MODALITIES = ("flair", "t1", "t1ce", "t2")  # order of the channels, as in the Kaggle files

SIGNAL: Mapping[str, tuple[float, float, float, float]] = {
    "white": (1.00, 1.00, 1.00, 1.00),
    "grey": (1.16, 0.80, 0.86, 1.35),
    "nuclei": (1.08, 0.88, 0.92, 1.15),
    "csf": (0.30, 0.30, 0.32, 3.10),
    "vessel": (0.35, 0.40, 2.00, 0.70),
    "oedema": (1.75, 0.84, 0.94, 2.10),
    "solid": (1.50, 0.76, 0.72, 2.20),
    "cyst": (0.75, 0.50, 0.52, 3.00),
    "enhancing": (1.56, 0.84, 1.90, 1.95),
}
"""Signal of each tissue in each of ``MODALITIES``, over that of white matter. Read off BraTS
volumes: oedema shines on FLAIR and T2 and is lost on T1ce; the rim enhances on T1ce only, and
on FLAIR looks like oedema; necrosis is dark on T1ce; fluid is dark on all but T2."""
RECURRENCE = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703])


@dataclass(frozen=True)
class PhantomPatient:
    """A patient's arrays, and what was drawn for it."""

    image: Array
    """(S, H, W, 4) float32: channels as ``MODALITIES``, whole numbers, 0 outside the brain."""
    labels: Labels  # (S, H, W) uint8 in {0, 1, 2, 4}
    spacing_mm: Point  # (slice, row, column)
    traits: Mapping[str, str | float]
    """``difficulty``, ``grade``, ``tumour_ml``, and ``contrast``: oedema over white matter, - 1."""


def make_patient(
    seed: int,
    patient: int,
    *,
    size: int = 240,
    slices: int = 155,
) -> PhantomPatient:
    """Make patient number ``patient`` of the phantom set ``seed``; nothing else changes the head.

    Another ``size`` (of 240 mm, in pixels) or number of ``slices`` (of 155 mm) samples the same
    head. One patient in four is hard.
    """
    grid = Grid(size, slices)
    # An additive recurrence (R3, Roberts 2018) spreads size, visibility and kind evenly over
    # any run of patients, which independent draws would often fail to do.
    start = np.random.default_rng([seed]).random(3)
    *_, kind = ranks = ((start + patient * RECURRENCE) % 1).tolist()
    easier: Difficulty = "faint" if kind < 1 / 8 else "usual"
    difficulty = "distractor" if kind > 7 / 8 else easier
    # One stream per purpose: the difficulty must not change the head or the scanner.
    rngs = [np.random.default_rng(s) for s in np.random.SeedSequence([seed, patient]).spawn(6)]
    lesion = Lesion.draw(rngs[0], ranks, difficulty)
    push_mm = 0.28 * lesion.radius_mm + 0.12 * lesion.reach_mm
    brain = build_brain(rngs[1], grid, lesion.centre, push_mm, 1.4 * lesion.radius_mm + 6)
    tumour, marked = grow(rngs[2], lesion, brain)
    scar = gliosis(rngs[3], brain, lesion, difficulty)
    tissue = _mix(brain.tissue, tumour, scar, vessels(rngs[4], brain))
    labels = np.zeros(grid.shape, np.uint8)
    labels[grid.window][brain.where] = marked
    traits = {
        "difficulty": difficulty,
        "grade": "HGG" if lesion.enhances else "LGG",
        "tumour_ml": round(float(np.count_nonzero(labels) * np.prod(grid.voxel_mm)) / 1000, 3),
        "contrast": round(lesion.contrast * (SIGNAL["oedema"][0] - 1), 3),
    }
    return PhantomPatient(_scan(rngs[5], brain, tissue), labels, grid.voxel_mm, traits)


def _mix(
    healthy: Mapping[str, Array], tumour: Mapping[str, Array], scar: Array, veins: Array
) -> dict[str, Array]:
    """Shares (n,) of all tissues in each voxel; they add up to 1."""
    core = tumour["solid"] + tumour["cyst"] + tumour["enhancing"]
    water = np.maximum(scar, tumour["oedema"])
    left = {name: share * (1 - core) for name, share in healthy.items()}
    csf = left.pop("csf")
    mixed = {name: share * (1 - water) for name, share in left.items()}
    fluids = {"oedema": water * sum(left.values()), "csf": csf * (1 - veins), "vessel": csf * veins}
    return {**tumour, **mixed, **fluids}


def _scan(rng: np.random.Generator, brain: Brain, tissue: Mapping[str, Array]) -> Array:
    """Image a head with a random protocol: (S, H, W, 4), whole numbers ≥ 1 in it, 0 around it."""
    grid, where = brain.grid, brain.where
    coil, texture = (brain.voxels(smooth_field(rng, grid, mm)) for mm in (75.0, 5.0))
    bias = float(rng.uniform(0.03, 0.12))  # standard deviation of the coil's log sensitivity
    image = np.zeros((len(MODALITIES), *grid.shape), np.float32)
    for channel, frame in enumerate(image):
        power, gain = float(rng.uniform(0.85, 1.15)), float(rng.uniform(150, 500))
        noise, mottle = float(rng.uniform(0.02, 0.06)), float(rng.uniform(-0.04, 0.04))
        signal = sum(SIGNAL[name][channel] ** power * share for name, share in tissue.items())
        signal *= np.exp(bias * coil + mottle * texture)
        # Around the head lies a middling signal, so that the blur leaves its edge as it is.
        window = np.ones(where.shape, np.float32)
        grain = rng.standard_normal(coil.shape, dtype=np.float32)
        window[where] = signal + noise * grain
        blur_px = float(rng.uniform(0.4, 1.1)) / grid.voxel_mm[1]
        seen = np.stack([cv2.GaussianBlur(plane, (0, 0), blur_px) for plane in window])
        frame[grid.window][where] = np.maximum(np.rint(gain * seen[where]), 1)
    return np.moveaxis(image, 0, -1)


@dataclass(frozen=True)
class Lesion:
    """One tumour, before any grid samples it. Lengths are millimetres."""

    enhances: bool
    centre: Point
    radius_mm: float
    reach_mm: float  # how far oedema runs in open white matter
    contrast: float  # share of water-rich tissue in oedema, in (0, 1]; the rest is white matter

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
    solid, enhancing = necrotic - cyst, tumour - necrotic
    return {"oedema": oedema, "solid": solid, "cyst": cyst, "enhancing": enhancing}, labels


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

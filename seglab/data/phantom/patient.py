"""One synthetic patient, from a seed to images and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from seglab.data.phantom.anatomy import Array, Brain, Grid, Point, build_brain, smooth_field
from seglab.data.phantom.lesions import Difficulty, Labels, Lesion, gliosis, grow, vessels

MODALITIES = ("flair", "t1", "t1ce", "t2")
"""Order of the channels, as in the Kaggle files."""

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
volumes: oedema shines on FLAIR and T2 and is lost on T1ce; the rim enhances on T1ce alone, and
on FLAIR looks like oedema; necrosis is dark on T1ce; fluid is dark on all but T2."""
RECURRENCE = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703])


@dataclass(frozen=True)
class PhantomPatient:
    """A patient's arrays, and what was drawn for it."""

    image: Array
    """(S, H, W, 4) float32: channels as ``MODALITIES``, whole numbers, 0 outside the brain."""
    labels: Labels
    """(S, H, W) uint8 in {0, 1, 2, 4}."""
    spacing_mm: Point
    """(slice, row, column)."""
    traits: Mapping[str, str | float]
    """``difficulty``, ``grade``, ``tumour_ml``, and ``contrast``: oedema over white matter, - 1."""


def make_patient(
    seed: int,
    patient: int,
    *,
    size: int = 240,
    slices: int = 155,
    difficulty: Difficulty | None = None,
) -> PhantomPatient:
    """Make patient number ``patient`` of the phantom set ``seed``.

    The result depends on nothing else: not on how many patients there are, nor on the process
    that makes it. Another ``size`` (of 240 mm, in pixels) or number of ``slices`` (of 155 mm)
    samples the same head. ``difficulty`` None draws it: one patient in four is hard.
    """
    grid = Grid(size, slices)
    # An additive recurrence (R3, Roberts 2018) spreads size, visibility and kind evenly over
    # any run of patients, which independent draws would often fail to do.
    start = np.random.default_rng([seed]).random(3)
    *_, kind = ranks = ((start + patient * RECURRENCE) % 1).tolist()
    drawn: Difficulty = "faint" if kind < 1 / 8 else "usual"
    difficulty = difficulty or ("distractor" if kind > 7 / 8 else drawn)
    # One stream per purpose: another difficulty must not change the head or the scanner.
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

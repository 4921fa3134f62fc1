"""One synthetic patient, from a seed to an image and its labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from seglab.core.errors import UserError, unknown_name
from seglab.data.phantom.anatomy import Anatomy, Brain, Points, push_aside
from seglab.data.phantom.grid import Array, Grid, Mask
from seglab.data.phantom.lesions import Growth, Labels, Lesion, grow
from seglab.data.phantom.mimics import Mimics, Spot
from seglab.data.phantom.scanner import Scanner

Plant = Literal["tiny", "faint", "distractor", "distractor_only", "shifted_truth", "intensity"]
"""A difficulty planted on purpose: a lesion of few voxels; one hardly brighter than its
surroundings; a bright focus far from the tumour; the same without any tumour; a truth whose
slices do not line up; a surface coil that nobody corrected for."""

MIN_SIZE, MIN_SLICES = 32, 8


@dataclass(frozen=True)
class Traits:
    """What was drawn for a patient: the right answers for whoever explains failures."""

    patient: int
    plant: Plant | None
    grade: str | None
    tumour_ml: float
    core_radius_mm: float
    oedema_contrast: float
    """FLAIR signal of full oedema over white matter, minus 1, before bias and noise."""
    distractor: tuple[int, int, int] | None
    """(slice, row, column) of the planted bright focus."""
    shifted_slices: tuple[int, ...]
    hot_spot: float
    """Factor of the planted coil hot spot; 1 is none."""


@dataclass(frozen=True)
class PhantomPatient:
    """A patient's arrays.

    ``image`` is (S, H, W, 4) float32 in scanner units, whole numbers, 0 outside the
    brain, channels FLAIR, T1, T1ce, T2. ``labels`` is (S, H, W) uint8 in {0, 1, 2, 4}.
    """

    image: Array
    labels: Labels
    traits: Traits


@dataclass(frozen=True)
class _Recipe:
    """All that is drawn for a patient before any voxel exists."""

    anatomy: Anatomy
    lesion: Lesion | None
    mimics: Mimics
    scanner: Scanner
    distractor: Spot | None


def make_patient(
    seed: int, patient: int, *, size: int = 240, slices: int = 155, plant: Plant | None = None
) -> PhantomPatient:
    """Make patient number ``patient`` of the phantom set ``seed``.

    The result depends on nothing else: not on how many patients there are, nor on
    the process that makes it. Another ``size`` or ``slices`` samples the same head.
    The same patient with and without ``plant`` differs only by what is planted.

    Raises:
        UserError: a grid too small to hold a brain, or an unknown plant.
    """
    check_request(size, slices, plant)
    grid = Grid(size, slices)
    # One stream per purpose: planting a failure must not reshuffle the rest.
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([seed, patient]).spawn(6)]
    recipe = _plant(_draw(seed, patient, streams), plant)
    points, depth = recipe.anatomy.points(grid)
    brain = _build_brain(recipe, points, depth)
    growth = grow(recipe.lesion, brain) if recipe.lesion is not None else None
    image = _image(recipe, brain, growth, streams[4])
    labels = np.zeros(grid.shape, np.uint8)
    shifted: tuple[int, ...] = ()
    if growth is not None:
        labels[grid.window][points.where] = growth.labels
        if plant == "shifted_truth":
            shifted = _misalign(labels, image[..., 0] > 0, grid, streams[5])
    return PhantomPatient(image, labels, _traits(patient, plant, recipe, points, labels, shifted))


def check_request(size: int, slices: int, plant: str | None = None) -> None:
    """Raise UserError unless ``make_patient`` can take these."""
    if size < MIN_SIZE:
        raise UserError(f"phantom size {size} is too small: at least {MIN_SIZE}")
    if slices < MIN_SLICES:
        raise UserError(f"phantom slices {slices} are too few: at least {MIN_SLICES}")
    if plant is not None and plant not in get_args(Plant):
        raise unknown_name("plant", plant, get_args(Plant))


def _draw(seed: int, patient: int, streams: list[np.random.Generator]) -> _Recipe:
    size, visibility = _quantiles(seed, patient)
    return _Recipe(
        anatomy=Anatomy.draw(streams[0]),
        lesion=Lesion.draw(streams[1], size, visibility),
        mimics=Mimics.draw(streams[2]),
        scanner=Scanner.draw(streams[3]),
        distractor=None,
    )


def _quantiles(seed: int, patient: int) -> tuple[float, float]:
    """Spread size and visibility evenly over any run of patients.

    The additive recurrence R2 (Roberts 2018): a dozen patients then span small to
    large and faint to bright, which independent draws would often fail to do.
    """
    start = np.random.default_rng(np.random.SeedSequence([seed])).random(2)
    size, visibility = (start + patient * np.array([0.7548776662466927, 0.5698402909980532])) % 1
    return float(size), float(visibility)


def _plant(recipe: _Recipe, plant: Plant | None) -> _Recipe:
    lesion = recipe.lesion
    assert lesion is not None
    if plant == "tiny":
        small = replace(lesion, radii=(3.2, 3.2, 3.2), satellite=None, rim_mm=0.0, reach_mm=1.0)
        return replace(recipe, lesion=small)
    if plant == "faint":
        faint = replace(lesion, contrast=0.15, core_contrast=0.15, rim_mm=0.0, fluid=0.2)
        return replace(recipe, lesion=faint)
    if plant in ("distractor", "distractor_only"):
        x, y, _ = lesion.centre
        opposite = (float(-np.copysign(34, x)), -0.6 * y, 92.0)
        focus = Spot(opposite, (10.0, 13.0, 10.0), strength=1.0)
        kept = replace(lesion, satellite=None) if plant == "distractor" else None
        return replace(recipe, lesion=kept, distractor=focus)
    if plant == "intensity":
        return replace(recipe, scanner=replace(recipe.scanner, hot_spot=7.0))
    return recipe


def _build_brain(recipe: _Recipe, points: Points, depth: Array) -> Brain:
    lesion = recipe.lesion
    if lesion is None:
        return recipe.anatomy.build(points, depth)
    push = 0.28 * lesion.radius_mm + 0.12 * lesion.reach_mm
    origin = push_aside(points, lesion.centre, push, 1.4 * lesion.radius_mm + 6)
    brain = recipe.anatomy.build(origin, depth)
    return replace(brain, points=points)


def _image(recipe: _Recipe, brain: Brain, growth: Growth | None, rng: np.random.Generator) -> Array:
    """Mix the tissues and image them."""
    mimics = recipe.mimics
    if recipe.distractor is not None:
        mimics = replace(mimics, spots=(*mimics.spots, recipe.distractor))
    none = np.zeros_like(brain.depth)
    water = mimics.gliosis(brain)
    tumour = none
    if growth is not None:
        water = np.maximum(water, growth.oedema)
        tumour = growth.necrosis + growth.enhancing
    healthy = 1 - tumour
    dry = healthy * (1 - water)
    vessels = np.float32(0.8) * mimics.vessels(brain)
    shares = {
        "white": brain.white * dry,
        "grey": brain.grey * dry,
        "nuclei": brain.nuclei * dry,
        "csf": brain.csf * healthy * (1 - vessels),
        "vessel": brain.csf * healthy * vessels,
        "oedema": (1 - brain.csf) * healthy * water,
    }
    if growth is not None and recipe.lesion is not None:
        fluid = np.float32(recipe.lesion.fluid)
        shares["cyst"] = fluid * growth.necrosis
        shares["solid"] = growth.necrosis - shares["cyst"]
        shares["enhancing"] = growth.enhancing
    return recipe.scanner.acquire(rng, brain.points, shares, mimics.inflow(brain))


def _misalign(labels: Labels, brain: Mask, grid: Grid, rng: np.random.Generator) -> tuple[int, ...]:
    """Shift the truth of every second tumour slice in place; return those slices."""
    shifted = np.flatnonzero(labels.any((1, 2)))[1::2]
    for index in shifted:
        angle, distance = rng.uniform((0, 10), (2 * np.pi, 15))
        by = np.rint(distance * np.array([np.cos(angle), np.sin(angle)]) / grid.voxel_mm[1])
        labels[index] = np.roll(labels[index], by.astype(int), (0, 1)) * brain[index]
    return tuple(int(index) for index in shifted)


def _traits(
    patient: int,
    plant: Plant | None,
    recipe: _Recipe,
    points: Points,
    labels: Labels,
    shifted: tuple[int, ...],
) -> Traits:
    lesion, scanner = recipe.lesion, recipe.scanner
    voxel_ml = float(np.prod(points.grid.voxel_mm)) / 1000
    return Traits(
        patient=patient,
        plant=plant,
        grade=lesion.grade if lesion else None,
        tumour_ml=round(float(np.count_nonzero(labels)) * voxel_ml, 3),
        core_radius_mm=round(lesion.radius_mm, 2) if lesion else 0.0,
        oedema_contrast=round(lesion.contrast * scanner.flair_contrast("oedema"), 3)
        if lesion
        else 0.0,
        distractor=_nearest_voxel(points, recipe.distractor) if recipe.distractor else None,
        shifted_slices=shifted,
        hot_spot=scanner.hot_spot,
    )


def _nearest_voxel(points: Points, spot: Spot) -> tuple[int, int, int]:
    x, y, z = (np.float32(value) for value in spot.centre)
    nearest = int(np.argmin((points.x - x) ** 2 + (points.y - y) ** 2 + (points.z - z) ** 2))
    inside = np.flatnonzero(points.where)[nearest]
    at = np.unravel_index(inside, points.where.shape)
    s, h, w = (int(i) + part.start for i, part in zip(at, points.grid.window, strict=True))
    return s, h, w

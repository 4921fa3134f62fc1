"""Elastic deformation alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import albumentations as A
import numpy as np
from albumentations.augmentations.geometric.functional import generate_displacement_fields
from numpy.typing import NDArray

from seglab.bench.material import Material
from seglab.bench.stage import Goal, Measurement, compare_rates, stage
from seglab.bench.timing import in_turn
from seglab.data.augment.displacement import displacement_field, source_maps
from seglab.data.augment.warp import Elastic, Warp
from seglab.data.cache import Cache
from seglab.studies.data import open_data

ALPHA, SIGMA = 250.0, 10.0
"""Of the default augmentation."""
FIELDS = 200
TOLERANCE = 0.05
ROUNDS = 9
"""Each takes a second, which is short for a busy machine."""
Fields = NDArray[np.float32]


@stage("elastic", "batches", "slices/s", goal=Goal(8))
def elastic(material: Material) -> Measurement:
    """Elastic deformation of a slice and its mask, against albumentations' ElasticTransform."""
    size, samples = material.scale.size, material.scale.samples
    config = material.config({"data": {"image_size": size, "crop": "none"}})
    cache = Cache(open_data(config).cache.path)  # deformed here, and nothing is learnt from it
    rows = np.resize(np.flatnonzero(cache.row_tumour_px), samples // 4)
    pairs = list(zip(cache.images[0][rows], cache.masks(rows), strict=True))
    ours = Warp(elastic=Elastic(ALPHA, SIGMA, "replicate"), p=1)
    theirs = A.ElasticTransform(alpha=ALPHA, sigma=SIGMA, p=1)
    contestants = {"ours": partial(_apply, ours, pairs), "theirs": partial(_apply, theirs, pairs)}
    seconds = in_turn(contestants, ROUNDS)
    measured = compare_rates(len(pairs), seconds["ours"], seconds["theirs"])
    return replace(measured, note=compare_displacements(size))


def compare_displacements(size: int) -> str:
    """Tell the statistics of both kinds of displacements, in pixels.

    Raises:
        ArithmeticError: they differ by more than 5 %, of the SD where a mean should be 0.
    """
    ours, theirs = (statistics(fields(size)) for fields in (our_fields, their_fields))
    for name, value in theirs.items():
        allowed = TOLERANCE * (theirs["SD"] if name == "mean" else value)
        if abs(ours[name] - value) > allowed:
            raise ArithmeticError(f"{name} of displacements is {ours[name]} px, theirs {value}")
    pairs = [f"{name} {ours[name]:.2f} and {theirs[name]:.2f}" for name in ours]
    return f"displacements in px, ours and theirs: {', '.join(pairs)}"


def our_fields(size: int, count: int = FIELDS) -> Fields:
    """Displacements (count, 2, size, size) as an image feels them, pixels."""
    rng = np.random.default_rng(1)
    field = displacement_field(size, size, ALPHA, SIGMA, "replicate")
    y, x = np.mgrid[:size, :size].astype(np.float32)
    maps = (source_maps(field, field.draw(rng), np.eye(2, 3)) for _ in range(count))
    return np.array([(map_x - x, map_y - y) for map_x, map_y in maps])


def their_fields(size: int, count: int = FIELDS) -> Fields:
    """The same of albumentations."""
    rng, shape = np.random.default_rng(2), (size, size)
    drawn = [
        generate_displacement_fields(shape, ALPHA, SIGMA, False, (0, 0), rng, "gaussian")
        for _ in range(count)
    ]
    return np.array(drawn)


def statistics(fields: Fields) -> dict[str, float]:
    """Mean, SD and correlation length (lag at which 1/e is left) of displacements, pixels."""
    length = fields.shape[-1]
    lags = range(length // 2)
    correlation = np.array(
        [(fields[..., : length - lag] * fields[..., lag:]).mean() for lag in lags]
    )
    share = correlation / correlation[0]
    below = int(np.argmax(share < 1 / np.e))
    fraction = (share[below - 1] - 1 / np.e) / (share[below - 1] - share[below])
    return {
        "mean": float(fields.mean()),
        "SD": float(fields.std()),
        "correlation length": below - 1 + float(fraction),
    }


def _apply(transform: A.DualTransform, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for image, mask in pairs:
        transform(image=image, mask=mask)

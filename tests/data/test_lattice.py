"""The scanner's whole numbers back from z-scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglab.data.normalise import one_scale, restore
from seglab.data.sources.base import open_source


def z_scored(image: np.ndarray) -> list[np.ndarray]:
    """Each slice by itself with its background, as the Kaggle set has them."""
    wide = image.astype(np.float64)
    return [(plane - plane.mean()) / (plane.std() or 1) for plane in wide]


def head(slices: int = 8, brightest: int = 900, seed: int = 0) -> np.ndarray:
    """Whole numbers (S, 48, 48) in a disc, 0 outside; the first slice is empty."""
    stream = np.random.default_rng(seed)
    y, x = np.mgrid[-24:24, -24:24]
    image = stream.integers(1, brightest, (slices, 48, 48)) * (np.hypot(y, x) < 18)
    image[0] = 0
    return image


@given(st.integers(0, 1000), st.integers(20, 3000))
def test_whole_numbers_come_back(seed: int, brightest: int) -> None:
    image = head(brightest=brightest, seed=seed)
    restored, shared, told = one_scale(z_scored(image))
    assert shared
    assert not told
    np.testing.assert_array_equal(restored, image)


def test_whole_numbers_come_back_from_scores_that_were_rounded() -> None:
    image = head(brightest=400)
    rounded = [scores.astype(np.float32) for scores in z_scored(image)]
    np.testing.assert_array_equal(one_scale(rounded)[0], image)


def test_numbers_with_a_fraction_keep_their_scores() -> None:
    image = head().astype(np.float64)
    image[3] += np.random.default_rng(1).normal(0, 0.3, (48, 48)) * (image[3] > 0)
    scores = z_scored(image)
    kept, shared, told = one_scale(scores)
    assert not shared
    assert told.startswith("slice 4 holds no whole numbers")
    np.testing.assert_array_equal(kept, np.stack(scores).astype(np.float32))


def test_a_slice_of_a_few_pixels_takes_its_scale_from_the_gaps_and_its_neighbours() -> None:
    image = head()
    image[-1] = image[-2] = 0
    image[-2, 20, 20:23] = 251, 330, 481  # the smallest gap is 79, the unit 1
    image[-1, 20, 20] = 777  # one value: nothing but its neighbours tells
    restored, shared, told = one_scale(z_scored(image))
    assert shared
    assert told.endswith("take it from a neighbour (2 slices)")
    np.testing.assert_array_equal(restored[:-1], image[:-1])
    brain = restored[1][restored[1] > 0]
    assert np.median(brain) / 2 < restored[-1].max() < 2 * np.median(brain)


def test_constant_slices_are_background_of_any_scale() -> None:
    restored, shared, told = one_scale([np.zeros((4, 4)), np.full((4, 4), 3.5)])
    assert (shared, told) == (True, "")
    assert not restored.any()


def test_gaps_that_a_sample_misses_are_found_in_all_pixels() -> None:
    plane = np.zeros((300, 300))
    plane[:100] = 2 * np.random.default_rng(0).integers(1, 300, (100, 300))
    plane[50, 1] = 33  # a single odd number: the unit is 1, not 2
    found = restore(z_scored(plane[None])[0])
    assert found is not None
    np.testing.assert_array_equal(found[0], plane)


@pytest.mark.real_data
@pytest.mark.parametrize("modality", ["flair", "t1ce"])
def test_every_slice_of_a_real_volume_comes_back(shared_data: Path, modality: str) -> None:
    """The z-scores are our own here; test_sources_real has the Kaggle files' against NIfTI."""
    source = open_source("brats-nifti", shared_data / "brats20_nifti")
    patient = next(p for p in source.patients() if p.patient_id.endswith("_237"))
    (image,) = source.read(patient, (modality,), with_labels=False).images
    restored, shared, _ = one_scale(z_scored(image))
    assert shared
    np.testing.assert_array_equal(restored, image)

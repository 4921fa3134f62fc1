"""Brain masks, levels of eight bits, and the scanner's whole numbers back from z-scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from seglab.data.normalise import LEVELS, brain_mask, one_scale, quantise, restore
from seglab.data.sources.base import open_source

METHODS = ("zscore", "robust", "percentile", "histogram")
SCOPES = ("slice", "volume")


Y, X = np.mgrid[:64, :64]
DISC = np.hypot(Y - 32, X - 32) < 20


def head(background: float, seed: int = 0) -> np.ndarray:
    image = np.full((3, 64, 64), background, np.float32)
    image[:, DISC] = np.random.default_rng(seed).normal(200, 40, (3, DISC.sum()))
    return image


@pytest.mark.parametrize("shared_scale", [True, False])
@pytest.mark.parametrize("background", [0.0, -3.6243944, 150.0])
def test_an_exact_background_is_removed(background: float, shared_scale: bool) -> None:
    image = head(background)
    image[1, 32, 32] = background - 50  # darker than the background, and still brain
    found = brain_mask(image, shared_scale=shared_scale)
    assert (found == DISC).all()


def test_noise_in_the_air_is_background() -> None:
    image = head(0.0)
    image[:, ~DISC] = np.random.default_rng(0).integers(0, 8, (3, (~DISC).sum()))
    assert (brain_mask(image, shared_scale=True) == DISC).mean() > 0.999


def test_constant_slices_and_values_that_are_not_finite_are_background() -> None:
    image = head(0.0)
    image[0] = 7.0
    image[1, 32, 30:33] = np.nan, np.inf, -np.inf
    found = brain_mask(image, shared_scale=False)
    assert not found[0].any()
    assert not found[1, 32, 30:33].any()
    assert found[1].sum() == DISC.sum() - 3


@pytest.mark.parametrize(("modality", "high"), [("flair", 5), ("t1ce", 8)])
@pytest.mark.parametrize("method", ["zscore", "robust"])
def test_levels_follow_the_closed_form(method: Any, modality: str, high: int) -> None:
    image = head(0.0, 2)
    brain = np.broadcast_to(DISC, image.shape)
    q, _ = quantise(image, brain, method, "volume", modality)
    pixels = image[brain].astype(float)
    if method == "robust":
        centre, high = np.median(pixels), high + 2 * (modality == "t1ce")
        deviation = 1.4826 * np.median(np.abs(pixels - centre))
    else:
        centre, deviation = pixels.mean(), pixels.std()
    levels = 1 + ((pixels - centre) / deviation + 3) / (3 + high) * LEVELS
    assert np.abs(q[brain] - levels.clip(1, 255)).max() <= 0.501


@pytest.mark.parametrize("scope", SCOPES)
def test_deciles_become_those_of_a_normal_distribution(scope: Any) -> None:
    """Whatever the scanner's curve; no grey value overtakes another."""
    image = np.where(DISC, 50 + (head(0.0, 3) / 20) ** 3, 0).astype(np.float32)
    image[1] *= 3
    brain = np.broadcast_to(DISC, image.shape)
    q, _ = quantise(image, brain, "histogram", scope)
    deviations = (q - 1) / LEVELS * 8 - 3.0
    for found in [deviations[brain]] if scope == "volume" else deviations[:, DISC]:
        shares = np.array([10, 30, 50, 80, 90])
        assert np.percentile(found, shares) == pytest.approx(norm.ppf(shares / 100), abs=0.04)
    order = np.argsort(image[1, DISC], kind="stable")
    assert (np.diff(deviations[1, DISC][order]) >= 0).all()
    again, _ = quantise(7 * image + 100, brain, "histogram", scope)
    assert np.abs(again[brain].astype(int) - q[brain]).max() <= 1


def test_a_bright_lesion_is_not_pressed_into_the_brain() -> None:
    image = head(0.0, 4)
    brain = np.broadcast_to(DISC, image.shape)
    image[:, 30:34, 30:34] = 360  # four standard deviations above the mean
    q, _ = quantise(image, brain, "histogram", "volume")
    assert np.median(q[:, 30:34, 30:34]) == pytest.approx(1 + 7 / 8 * LEVELS, abs=6)


@pytest.mark.parametrize("method", METHODS)
def test_near_empty_slices_stay_calm(method: str) -> None:
    image = np.full((3, 64, 64), -0.02, np.float32)
    image[1, 5, 5] = 67.0  # one pixel
    image[2, 5, 5:8] = 35.0, 35.0, 35.0  # no contrast
    brain = brain_mask(image, shared_scale=False)
    q, scale = quantise(image, brain, method, "slice")  # type: ignore[arg-type]
    assert np.count_nonzero(q) == 4
    assert set(np.unique(q[q > 0])) == {1 + round(3 / 8 * LEVELS)}
    assert np.isfinite(scale).all()


@given(
    image=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=8),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    ),
    method=st.sampled_from(METHODS),
    scope=st.sampled_from(SCOPES),
    shared_scale=st.booleans(),
)
def test_any_image_gives_finite_scales_and_zero_only_outside(
    image: np.ndarray, method: str, scope: str, shared_scale: bool
) -> None:
    brain = brain_mask(image, shared_scale=shared_scale)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        q, scale = quantise(image, brain, method, scope)  # type: ignore[arg-type]
    assert ((q > 0) == brain).all()
    assert np.isfinite(scale).all()


def z_scored(image: np.ndarray) -> list[np.ndarray]:
    """Each slice by itself with its background, as the Kaggle set has them."""
    wide = image.astype(np.float64)
    return [(plane - plane.mean()) / (plane.std() or 1) for plane in wide]


def whole_numbers(slices: int = 8, brightest: int = 900, seed: int = 0) -> np.ndarray:
    """Whole numbers (S, 48, 48) in a disc, 0 outside; the first slice is empty."""
    stream = np.random.default_rng(seed)
    y, x = np.mgrid[-24:24, -24:24]
    image = stream.integers(1, brightest, (slices, 48, 48)) * (np.hypot(y, x) < 18)
    image[0] = 0
    return image


@given(st.integers(0, 1000), st.integers(20, 3000))
def test_whole_numbers_come_back(seed: int, brightest: int) -> None:
    image = whole_numbers(brightest=brightest, seed=seed)
    restored, shared, told = one_scale(z_scored(image))
    assert shared
    assert not told
    np.testing.assert_array_equal(restored, image)


def test_whole_numbers_come_back_from_scores_that_were_rounded() -> None:
    image = whole_numbers(brightest=400)
    rounded = [scores.astype(np.float32) for scores in z_scored(image)]
    np.testing.assert_array_equal(one_scale(rounded)[0], image)


def test_numbers_with_a_fraction_keep_their_scores() -> None:
    image = whole_numbers().astype(np.float64)
    image[3] += np.random.default_rng(1).normal(0, 0.3, (48, 48)) * (image[3] > 0)
    scores = z_scored(image)
    kept, shared, told = one_scale(scores)
    assert not shared
    assert told.startswith("slice 4 holds no whole numbers")
    np.testing.assert_array_equal(kept, np.stack(scores).astype(np.float32))


def test_a_slice_of_a_few_pixels_takes_its_scale_from_the_gaps_and_its_neighbours() -> None:
    image = whole_numbers()
    image[-1] = image[-2] = 0
    image[-2, 20, 20:23] = 251, 330, 481  # the smallest gap is 79, the unit 1
    image[-1, 20, 20] = 777  # one value: nothing but its neighbours tells
    restored, shared, told = one_scale(z_scored(image))
    assert shared
    assert told.endswith("take it from a neighbour (2 slices of the patient)")
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

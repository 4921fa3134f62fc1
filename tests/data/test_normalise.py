from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seglab.data.normalise import LEVELS, brain_mask, quantise

METHODS = ("zscore", "robust", "percentile")
SCOPES = ("slice", "volume")


def disc(side: int = 64, radius: float = 20) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.hypot(y - side / 2, x - side / 2) < radius


def head(background: float, stream: np.random.Generator) -> np.ndarray:
    image = np.full((3, 64, 64), background, np.float32)
    image[:, disc()] = stream.normal(200, 40, (3, disc().sum()))
    return image


@pytest.mark.parametrize("shared_scale", [True, False])
@pytest.mark.parametrize("background", [0.0, -3.6243944, 150.0])
def test_an_exact_background_of_any_value_is_removed_and_nothing_else(
    background: float, shared_scale: bool
) -> None:
    image = head(background, np.random.default_rng(0))
    image[1, 32, 32] = background - 50  # darker than the background, and still brain
    found = brain_mask(image, shared_scale=shared_scale)
    assert (found == disc()).all()


def test_noise_in_the_air_is_background() -> None:
    stream = np.random.default_rng(0)
    image = head(0.0, stream)
    image[:, ~disc()] = stream.integers(0, 8, (3, (~disc()).sum()))
    assert (brain_mask(image, shared_scale=True) == disc()).mean() > 0.999


def test_constant_slices_and_values_that_are_not_finite_are_background() -> None:
    image = head(0.0, np.random.default_rng(0))
    image[0] = 7.0
    image[1, 32, 30:33] = np.nan, np.inf, -np.inf
    found = brain_mask(image, shared_scale=False)
    assert not found[0].any()
    assert not found[1, 32, 30:33].any()
    assert found[1].sum() == disc().sum() - 3


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", METHODS)
def test_scale_undoes_the_quantisation_to_half_a_step(method: str, scope: str) -> None:
    image = head(-3.0, np.random.default_rng(1))
    q, scale = quantise(image, np.broadcast_to(disc(), image.shape), method, scope)  # type: ignore[arg-type]
    offset, step = scale[:, :1, None], scale[:, 1:, None]
    restored = offset + q * step
    kept = (q > 1) & (q < 255)
    assert kept.sum() > 0.98 * 3 * disc().sum()
    assert (np.abs(restored - image) / step)[kept].max() <= 0.501
    assert (q == 0)[:, ~disc()].all()


@pytest.mark.parametrize(("modality", "high"), [("flair", 5), ("t1ce", 8)])
@pytest.mark.parametrize("method", ["zscore", "robust"])
def test_levels_follow_the_closed_form(method: Any, modality: str, high: int) -> None:
    image = head(0.0, np.random.default_rng(2))
    brain = np.broadcast_to(disc(), image.shape)
    q, _ = quantise(image, brain, method, "volume", modality)
    pixels = image[brain].astype(float)
    if method == "robust":
        centre, high = np.median(pixels), high + 2 * (modality == "t1ce")
        deviation = 1.4826 * np.median(np.abs(pixels - centre))
    else:
        centre, deviation = pixels.mean(), pixels.std()
    levels = 1 + ((pixels - centre) / deviation + 3) / (3 + high) * LEVELS
    assert np.abs(q[brain] - levels.clip(1, 255)).max() <= 0.501


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

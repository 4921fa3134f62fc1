"""The pieces a phantom is made of, against closed forms and other implementations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from seglab.data.phantom.grid import FRAME_MM, Grid, SmoothField
from seglab.data.phantom.kaggle import standardise
from seglab.data.phantom.lesions import Lesion
from seglab.data.phantom.scanner import (
    CHANNELS,
    TISSUES,
    Scanner,
    _inversion_recovery,
    _nulling_time,
    _rician,
    _spin_echo,
)
from seglab.data.phantom.shapes import ellipsoid, inside, smooth_union, tube, within_sheet

FLAIR, T1, T1CE, T2 = range(4)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_field_equals_scipys_cubic_spline(rng: np.random.Generator) -> None:
    field, grid = SmoothField.draw(rng, 23.0), Grid(40, 12)
    # scipy's spline through coefficients c is centred on knot i at position i; ours on i - 1.
    at = np.meshgrid(*(axis / 23.0 + 1 for axis in grid.axes_mm), indexing="ij")
    expected = ndimage.map_coordinates(field.coefficients, at, order=3, prefilter=False)
    np.testing.assert_allclose(field.sample(grid), expected, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_field_derivative_equals_differences(rng: np.random.Generator, axis: int) -> None:
    field, grid = SmoothField.draw(rng, 30.0), Grid(160, 103)
    step = grid.voxel_mm[axis]
    differences = np.gradient(field.sample(grid), step, axis=axis)
    inner = tuple(slice(1, -1) if a == axis else slice(None) for a in range(3))
    np.testing.assert_allclose(field.sample(grid, axis)[inner], differences[inner], atol=4e-3)


def test_field_has_zero_mean_and_unit_variance(rng: np.random.Generator) -> None:
    values = SmoothField.draw(rng, 6.0).sample(Grid(120, 80))
    assert abs(values.mean()) < 0.05
    assert 0.9 < values.std() < 1.1


def test_band_pass_removes_slow_variation(rng: np.random.Generator) -> None:
    def slow_share(band_pass: bool) -> float:
        values = SmoothField.draw(rng, 6.0, band_pass=band_pass).sample(Grid(120, 80))
        return float(ndimage.uniform_filter(values, 15).std() / values.std())

    assert slow_share(True) < 0.5 * slow_share(False)


def test_voxels_of_every_grid_fill_the_same_frame() -> None:
    for size, slices in ((32, 8), (64, 24), (97, 41), (240, 155)):
        grid = Grid(size, slices)
        counts = (slices, size, size)
        extents = [step * count for step, count in zip(grid.voxel_mm, counts, strict=True)]
        assert extents == pytest.approx(FRAME_MM)
        for axis, part, step in zip(grid.axes_mm, grid.window, grid.voxel_mm, strict=True):
            np.testing.assert_allclose(axis, (np.arange(part.start, part.stop) + 0.5) * step)


def test_ellipsoid_is_exact_for_a_sphere(rng: np.random.Generator) -> None:
    x, y, z = rng.uniform(-30, 30, (3, 500)).astype(np.float32)
    expected = np.sqrt((x - 3) ** 2 + (y + 5) ** 2 + z**2) - 9
    np.testing.assert_allclose(ellipsoid(x, y, z, (3, -5, 0), (9, 9, 9)), expected, atol=1e-3)


def test_tube_is_the_distance_to_its_axis_less_the_radius(rng: np.random.Generator) -> None:
    x, y, z = rng.uniform(-20, 20, (3, 300)).astype(np.float32)
    corners = np.array([(-10.0, 0, 0), (5, 8, 0), (5, 8, 12)])
    along = np.linspace(0, 1, 4001)[:, None]
    axis = np.concatenate([a + along * (b - a) for a, b in pairwise(corners)])
    gaps = np.stack([x, y, z], -1)[:, None] - axis[::8]
    expected = np.sqrt((gaps**2).sum(-1)).min(1) - 2
    knots = [(*corner, 2.0) for corner in corners.tolist()]
    np.testing.assert_allclose(tube(x, y, z, knots), expected, atol=0.02)


def test_smooth_union_never_lies_outside_the_sharp_one(rng: np.random.Generator) -> None:
    a, b = rng.uniform(-20, 20, (2, 400)).astype(np.float32)
    smooth, sharp = smooth_union([a, b], 6.0), np.minimum(a, b)
    assert (smooth <= sharp + 1e-5).all()
    assert (smooth >= sharp - 6.0 / 4 - 1e-5).all()
    np.testing.assert_allclose(smooth[abs(a - b) > 6], sharp[abs(a - b) > 6], atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    distance=st.floats(-12, 12),
    half_width=st.floats(0.05, 4),
    edge=st.floats(0.5, 7),
)
def test_shares_average_over_the_voxel(distance: float, half_width: float, edge: float) -> None:
    at = distance + edge * (np.arange(20000) + 0.5) / 20000 - edge / 2
    here = np.array([distance], np.float32)
    sheet = within_sheet(here, half_width, edge)[0]
    assert sheet == pytest.approx((np.abs(at) < half_width).mean(), abs=1e-3)
    assert inside(here, edge)[0] == pytest.approx((at < 0).mean(), abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_every_protocol_shows_what_a_radiologist_expects(seed: int) -> None:
    scanner = Scanner.draw(np.random.default_rng(seed))
    signal = {name: scanner.signals(tissue) for name, tissue in TISSUES.items()}
    flair = {name: values[FLAIR] for name, values in signal.items()}
    assert flair["csf"] < 0.6 * flair["white"] < flair["grey"] < flair["oedema"]
    assert signal["csf"][T2] > signal["oedema"][T2] > signal["grey"][T2] > signal["white"][T2]
    assert signal["white"][T1] > signal["grey"][T1] > signal["csf"][T1]
    gain = [signal["enhancing"][c] - signal["solid"][c] for c in range(len(CHANNELS))]
    relative = [gain[c] / signal["white"][c] for c in range(len(CHANNELS))]
    assert int(np.argmax(relative)) == T1CE


def test_sequences_follow_their_equations() -> None:
    assert _spin_echo(1000.0, 100.0, 1000 * np.log(2), 100 * np.log(4)) == pytest.approx(0.5 / 4)
    null = _nulling_time(9000.0, 4200.0)
    assert _inversion_recovery(4200.0, 1800.0, 9000.0, 100.0, null) == pytest.approx(0, abs=1e-9)
    # With a long repetition the classic null at T1 ln 2 comes back.
    assert _nulling_time(1e6, 1000.0) == pytest.approx(1000 * np.log(2))


@pytest.mark.parametrize("level", [0.0, 0.5, 3.0])
def test_noise_is_rician(rng: np.random.Generator, level: float) -> None:
    seen = _rician(rng, np.full(20_000, level, np.float32), sigma=0.4)
    expected = stats.rice(level / 0.4, scale=0.4)
    assert stats.kstest(seen, expected.cdf).pvalue > 1e-3


def test_standardise_is_the_z_score_of_the_whole_frame(rng: np.random.Generator) -> None:
    image = rng.integers(0, 400, (30, 20, 4)).astype(np.float32)
    image[..., 2] = 5.0
    scores = standardise(image)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores[..., 2], 0.0)
    for channel in (0, 1, 3):
        expected = stats.zscore(image[..., channel].astype(np.float64), axis=None)
        np.testing.assert_allclose(scores[..., channel], expected, atol=1e-12)


def test_lesions_range_from_small_to_large() -> None:
    radii = [Lesion.draw(np.random.default_rng(3), q, 0.5).radius_mm for q in (0.0, 0.5, 1.0)]
    assert radii == sorted(radii)
    assert radii[0] < 6 < 20 < radii[2]

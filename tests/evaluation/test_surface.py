"""Surface scores against MONAI and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_edge_surface_distance
from scipy import ndimage

from seglab.evaluation.surface import distances, surface, surface_scores

spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.25, 3.0])] * 3)
volumes = st.tuples(*[st.integers(1, 7)] * 3).flatmap(
    lambda shape: st.tuples(*[arrays(bool, shape)] * 2)
)


def monai_scores(pred: np.ndarray, truth: np.ndarray, spacing: tuple) -> tuple[float, float]:
    one_hot = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (pred, truth)]
    hd95 = compute_hausdorff_distance(
        *one_hot, include_background=True, percentile=95, spacing=spacing
    )
    nsd = compute_surface_dice(*one_hot, [2.0], include_background=True, spacing=spacing)
    return float(hd95), float(nsd)


@settings(max_examples=60)
@given(volumes, spacings)
def test_any_masks_score_as_in_monai(pair: tuple[np.ndarray, np.ndarray], spacing: tuple) -> None:
    pred, truth = pair
    if not (pred.any() and truth.any()):
        return
    hd95_mm, nsd_2mm = surface_scores(pred, truth, spacing)
    both = (torch.from_numpy(np.ascontiguousarray(mask)) for mask in pair)
    _, distances, _ = get_edge_surface_distance(*both, spacing=spacing, symmetric=True)
    # Interpolated in double: torch.quantile rounds the rank itself to float32.
    hd95 = max(np.percentile(d.double().numpy(), 95) for d in distances)
    assert hd95_mm == pytest.approx(hd95, rel=1e-6)
    assert nsd_2mm == pytest.approx(monai_scores(pred, truth, spacing)[1], abs=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.9, 1.1)])
def test_blobs_score_as_in_monai(spacing: tuple) -> None:
    rng = np.random.default_rng(5)
    field = ndimage.gaussian_filter(rng.standard_normal((2, 40, 60, 50)), (0, 3, 3, 3))
    shared = ndimage.gaussian_filter(rng.standard_normal((40, 60, 50)), 6)
    pred, truth = (field / field.std() * 0.3 + shared / shared.std()) > 1
    # MONAI computes in float32.
    expected = monai_scores(pred, truth, spacing)
    assert surface_scores(pred, truth, spacing) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("size", [40, 700])
def test_long_distances_are_exact(size: int) -> None:
    """A network that marks the noise of a whole frame: far from the truth, and near every tie."""
    spacing = (2.0, 0.4, 0.4)
    truth = np.zeros((3, size, size), bool)
    truth[0, 0, 0] = True
    pred = np.random.default_rng(0).random(truth.shape) < 20_000 / truth.size
    pred[:2, :6, :6] = True
    away = np.linalg.norm(np.argwhere(surface(pred)) * spacing, axis=1)
    hd95_mm, nsd_2mm = surface_scores(pred, truth, spacing)
    assert hd95_mm == pytest.approx(np.percentile(away, 95), rel=1e-12)
    assert nsd_2mm == (np.count_nonzero(away <= 2 + 1e-9) + 1) / (len(away) + 1)


def test_empty_masks_follow_the_stated_policy() -> None:
    empty = np.zeros((155, 240, 240), bool)
    tumour = empty.copy()
    tumour[70:80, 100:120, 100:120] = True
    missed = surface_scores(empty, tumour, (1.0, 1.0, 1.0))
    assert missed == (pytest.approx(373.13, abs=0.005), 0)
    for pred in (empty, tumour):
        assert np.isnan(surface_scores(pred, empty, (1.0, 1.0, 1.0))).all()


@pytest.mark.parametrize("density", [0.001, 0.5])
def test_distances_are_those_of_the_distance_transform(density: float) -> None:
    rng = np.random.default_rng(3)
    mask = ndimage.binary_dilation(rng.random((12, 20, 22)) > 0.996, iterations=2)
    points, spacing = rng.random(mask.shape) < density, (3.0, 0.8, 1.1)
    oracle = ndimage.distance_transform_edt(~mask, sampling=spacing)[points]
    np.testing.assert_allclose(distances(points, mask, spacing), oracle, atol=1e-12)
    assert np.isinf(distances(points, np.zeros_like(mask), spacing)).all()

"""Overlap scores against scikit-learn, and the properties every mask pair must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from seglab.evaluation.metrics import dice, iou, score_patient, slice_counts

SPACING = (2.0, 1.0, 0.5)
shapes = st.tuples(*[st.integers(1, 6)] * 3)
mask_pairs = shapes.flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 1))] * 2)
)


def same(left: float, right: float) -> bool:
    return left == pytest.approx(right, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_overlap_and_slice_figures_equal_scikit_learn(density: float) -> None:
    pred, truth = np.random.default_rng(7).random((2, 6, 17, 13)) < density
    truth[:2] = pred[[0, 5]] = False
    truth[2:, 0, 0] = pred[1, 0, 0] = True
    score = score_patient("p", pred, truth, SPACING, True, surface=False)
    flat = truth.ravel(), pred.ravel()
    assert same(score.dice, f1_score(*flat))
    assert same(score.iou, jaccard_score(*flat))
    assert same(score.precision, precision_score(*flat))
    assert same(score.recall, recall_score(*flat))
    pairs = zip(truth.reshape(6, -1), pred.reshape(6, -1), strict=True)
    by_slice = [f1_score(t, p, zero_division=1.0) for t, p in pairs]
    assert same(score.dice_slice_tumour, float(np.mean(by_slice[2:])))
    assert same(score.dice_slice_empty1, float(np.mean(by_slice)))
    assert (score.slices, score.empty_slices, score.empty_slice_fp) == (6, 2, 1)


@given(mask_pairs)
def test_dice_and_iou_are_symmetric_bounded_and_tied(pair: tuple[np.ndarray, np.ndarray]) -> None:
    there, back = slice_counts(*pair), slice_counts(*pair[::-1])
    for score in (dice, iou):
        np.testing.assert_array_equal(score(there), score(back))
        found = score(there)[~np.isnan(score(there))]
        assert ((found >= 0) & (found <= 1)).all()
    overlap = iou(there)
    np.testing.assert_allclose(dice(there), 2 * overlap / (1 + overlap), rtol=1e-14)
    if all(mask.any() for mask in pair):
        ours, swapped = (score_patient("x", *each, None, True) for each in (pair, pair[::-1]))
        assert (ours.precision, ours.recall) == (swapped.recall, swapped.precision)


def test_a_patient_without_tumour_has_volumes_but_no_overlap() -> None:
    pred = np.zeros((3, 10, 10), np.uint8)
    pred[1, :4, :5] = 1
    score = score_patient("p", pred, np.zeros_like(pred), SPACING, True)
    undefined = (score.dice, score.iou, score.precision, score.recall, score.dice_slice_tumour)
    assert all(math.isnan(value) for value in (*undefined, score.hd95_mm, score.nsd_2mm))
    assert score.fp_volume_ml == pytest.approx(20 * 1.0 / 1000)
    assert score.truth_ml == 0
    assert (score.empty_slices, score.empty_slice_fp) == (3, 1)
    assert same(score.dice_slice_empty1, 2 / 3)


def test_a_missed_tumour_scores_zero_not_nan() -> None:
    truth = np.zeros((3, 4, 4), np.uint8)
    truth[1, 1, 1] = 1
    score = score_patient("p", np.zeros_like(truth), truth, SPACING, True)
    assert (score.dice, score.iou, score.recall, score.nsd_2mm) == (0, 0, 0, 0)
    assert math.isnan(score.precision)
    assert score.hd95_mm == pytest.approx(math.hypot(6, 4, 2))


@pytest.mark.parametrize(("spacing", "contiguous"), [(None, True), (SPACING, False)])
def test_no_surface_without_spacing_or_with_gaps(spacing: object, contiguous: bool) -> None:
    mask = np.ones((3, 4, 4), np.uint8)
    score = score_patient("p", mask, mask, spacing, contiguous)  # type: ignore[arg-type]
    assert math.isnan(score.hd95_mm)
    assert math.isnan(score.nsd_2mm)
    assert math.isnan(score.truth_ml) == (spacing is None)
    assert score.dice == 1


def test_labels_above_one_are_tumour_and_shapes_must_be_equal() -> None:
    labels = np.array([[[0, 1], [2, 4]]], np.uint8)
    score = score_patient("p", labels, labels > 0, None, False)
    assert (score.tp, score.fp, score.fn) == (3, 0, 0)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 2, 3\)"):
        slice_counts(labels, np.zeros((1, 2, 3)))

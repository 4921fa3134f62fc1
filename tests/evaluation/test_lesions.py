"""Lesions against every way to match them, and against the package of the BraTS challenge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label, shift

from seglab.core.arrays import bounding_box
from seglab.evaluation.lesions import LesionScores, lesion_scores

Masks = tuple[np.ndarray, np.ndarray]


def by_trial(pred: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """Found, missed, false and mean Dice of the best of all ways to match pieces with lesions."""
    pieces, lesions = (
        [numbered == i for i in range(1, count + 1)]
        for numbered, count in (label(mask, np.ones((3, 3, 3))) for mask in (pred, truth))
    )
    few, many = sorted((pieces, lesions), key=len)
    best: list[float] = []
    for chosen in itertools.permutations(many, len(few)):
        pairs = zip(few, chosen, strict=True)
        dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs if (a & b).any()]
        best = max(best, dice, key=lambda found: (sum(found), len(found)))
    mean = sum(best) / len(best) if best else 0.0
    return len(best), len(lesions) - len(best), len(pieces) - len(best), mean


@pytest.mark.parametrize("seed", range(8))
def test_lesions_are_matched_to_the_largest_sum_of_dice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, pred = np.zeros((2, 6, 24, 24), bool)
    for mask, count in ((truth, 4), (pred, 5)):
        for z, y, x in rng.integers(0, (4, 20, 20), (count, 3)):
            mask[z : z + 2, y : y + 4, x : x + 4] = True
    found = lesion_scores(pred, truth)
    assert found[1:] == pytest.approx(by_trial(pred, truth))
    swapped = lesion_scores(truth, pred)
    assert swapped.lesion_dice == pytest.approx(found.lesion_dice)
    assert (swapped.lesions_missed, swapped.lesions_false) == (
        found.lesions_false,
        found.lesions_missed,
    )


def test_f1_is_the_harmonic_mean_over_lesions_that_overlap() -> None:
    truth, pred = np.zeros((2, 6, 9, 30), bool)
    for column in (1, 8, 15, 22):
        truth[1:4, 2:5, column : column + 3] = True
    pred[3:5, 4:7, 3] = True  # touches the first lesion in one voxel
    pred[2, 3, 8] = pred[2, 3, 10] = True  # two pieces in the second
    pred[0, 0, 29] = True  # a false alarm
    found, precision, recall = lesion_scores(pred, truth), 3 / 4, 2 / 4
    assert found.lesion_f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert found[1:4] == (2, 2, 2)
    # Slices that are not neighbours: the false alarm, the piece of two slices is two pieces.
    apart, precision, recall = lesion_scores(pred, truth, contiguous=False), 3 / 5, 2 / 12
    assert apart.lesion_f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert apart[1:4] == (2, 10, 3)


def test_empty_masks_have_no_lesions() -> None:
    one, empty = np.ones((2, 3, 3), bool), np.zeros((2, 3, 3), bool)
    assert lesion_scores(one, one) == LesionScores(1, 1, 0, 0, 1)
    assert lesion_scores(one, empty) == LesionScores(0, 0, 0, 1, 0)
    assert lesion_scores(empty, one) == LesionScores(0, 0, 1, 0, 0)
    none = lesion_scores(empty, empty)
    assert none[1:4] == (0, 0, 0)
    assert math.isnan(none.lesion_f1)
    assert math.isnan(none.lesion_dice)


def real_masks(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Whole tumours of every real patient, on the grid of the stack, with 12 voxels around."""
    from seglab.data.sources.base import open_source

    sets = [("brats-h5", "brats20_h5"), ("lgg-tif", "lgg_tif")]
    for name, root in [*sets, ("brats-nifti", "brats20_nifti"), ("brats-nifti", "brats23_nifti")]:
        source = open_source(name, folder / root)
        for patient in source.patients():
            volume = source.read(patient, list(patient.images)[:1])
            stack = np.zeros((volume.stack_size, *volume.labels.shape[1:]), bool)
            stack[volume.slice_indices] = volume.labels > 0
            if (box := bounding_box(stack)) is not None:
                yield patient.patient_id, np.pad(stack[box], 12)


@pytest.mark.real_data
@pytest.mark.slow
def test_real_lesions_equal_those_of_the_brats_challenge(shared_data: Path) -> None:
    """Its panoptica needs plotly < 6 and numpy < 2.3: not in an environment with ours."""
    reason = "needs brats-evaluation 0.0.10 on PYTHONPATH, installed into a folder of its own"
    package = pytest.importorskip("brats_evaluation", reason=reason)
    from panoptica import Panoptica_Evaluator

    evaluator = Panoptica_Evaluator.load_from_config(str(package.config_path("gli")))
    rng, count = np.random.default_rng(0), 0
    for name, truth in real_masks(shared_data):
        pred = shift(truth.astype(np.uint8), (0, 3, -2), order=0).astype(bool)
        pred &= ~binary_dilation(rng.random(truth.shape) < 1e-3, np.ones((1, 5, 5)))
        pred |= binary_dilation(rng.random(truth.shape) < 1e-5, np.ones((3, 3, 3)))
        found = lesion_scores(pred, truth)
        told = evaluator.evaluate(pred.astype(np.uint8) * 2, truth.astype(np.uint8) * 2)
        theirs = told["wt"].to_dict(True)
        keys = ("tp", "fn", "fp", "sq_dsc")
        expected = [float(theirs[key]) for key in keys]
        assert found[1:] == pytest.approx(expected, abs=1e-6, nan_ok=True), name
        count += 1
    assert count > 100

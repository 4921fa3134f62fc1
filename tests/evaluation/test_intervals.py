"""Intervals of test figures, and calibration, against values worked out otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

from seglab.evaluation.calibration import pooled_reliability, reliability, slice_dice
from seglab.evaluation.metrics import score_patient
from seglab.evaluation.scores import FIGURES, interval, intervals, summarise
from seglab.evaluation.statistics import RESAMPLES


def patients(count: int, seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    scores = []
    for number in range(count):
        truth = rng.random((5, 12, 12)) < 0.2
        truth[: rng.integers(0, 3)] = False
        prediction = truth ^ (rng.random(truth.shape) < 0.05)
        scores.append(score_patient(f"p{number}", prediction, truth, (1, 1, 1), True))
    return scores


def test_every_figure_is_the_summary_s_and_lies_in_its_interval() -> None:
    scores = patients(12)
    summary = summarise(scores)
    found = intervals(scores)
    assert found.keys() == FIGURES.keys()
    for name, figure in found.items():
        assert figure.value == pytest.approx(summary[name]), name
        assert figure.low <= figure.value <= figure.high, name


def test_a_mean_has_the_studentised_interval_of_its_resamples() -> None:
    scores = patients(20)
    dice = np.array([score.dice for score in scores])
    drawn = dice[np.random.default_rng(0).integers(0, 20, (RESAMPLES, 20))]
    pivots = np.sort(np.abs(drawn.mean(axis=1) - dice.mean()) / stats.sem(drawn, axis=1))
    found = intervals(scores)["dice"]
    half = pivots[math.ceil(0.95 * RESAMPLES) - 1] * stats.sem(dice)
    assert found.high - found.value == pytest.approx(half)
    assert found.patients == 20
    low, high = stats.ttest_1samp(dice[:5], 0).confidence_interval(0.95)
    few = interval([(value, 1.0) for value in dice[:5]])
    assert (few.low, few.high) == pytest.approx((low, high))


def test_shares_end_at_one_and_lengths_do_not() -> None:
    found = intervals(patients(30))
    assert found["recall"].high <= 1.0
    assert found["hd95_mm"].high > 1.0


def test_patients_without_a_figure_are_left_out_of_it() -> None:
    empty = np.zeros((3, 12, 12), bool)
    scores = [*patients(6), score_patient("empty", empty, empty, (1, 1, 1), True)]
    found = intervals(scores)
    assert found["dice"].patients == found["dice_slice_tumour"].patients == 6
    assert found["dice"].value == pytest.approx(np.mean([score.dice for score in scores[:6]]))
    assert found["dice_slice_empty1"].patients == 7


def test_an_interval_of_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    """Patients of 1 to 10 slices with a false-alarm rate of 0.3, known by construction."""
    rng = np.random.default_rng(1)
    covered = 0
    trials = 150
    for _ in range(trials):
        slices = rng.integers(1, 11, 40)
        alarms = rng.binomial(slices, 0.3)
        found = interval(list(zip(alarms, slices, strict=True)), 1.0)
        covered += found.low <= 0.3 <= found.high
    # Binomial spread of 0.95 over 150 trials is 0.018.
    assert 0.89 <= covered / trials <= 1.0


def test_shares_stay_shares_and_nothing_is_made_of_nothing() -> None:
    perfect = interval([(1.0, 1.0), (0.9, 1.0)], 1.0)
    assert perfect.high == 1.0
    assert perfect.low == 0.0 or perfect.low < 0.95
    alone = interval([(0.5, 1.0), (0.0, 0.0)], 1.0)
    assert alone.value == 0.5
    assert alone.patients == 1
    assert math.isnan(alone.low)
    assert math.isnan(interval([(0.0, 0.0)]).value)


def test_calibration_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(2)
    probability = rng.random((4, 30, 30)).astype(np.float32)
    truth = (rng.random(probability.shape) < probability**2).astype(np.uint8)
    inside = rng.random(probability.shape) < 0.7
    halves = [reliability(probability[s], truth[s], inside[s]) for s in (slice(2), slice(2, 4))]
    found = pooled_reliability(halves)
    frequency, confidence = calibration_curve(truth[inside], probability[inside], n_bins=10)
    np.testing.assert_allclose(found.frequency, frequency)
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-5)
    weights = found.pixels / inside.sum()
    expected = (weights * np.abs(frequency - confidence)).sum()
    assert found.expected_error == pytest.approx(expected, rel=1e-4)


def test_slices_without_tumour_and_prediction_have_no_dice() -> None:
    truth = np.zeros((4, 3, 3), np.uint8)
    prediction = np.zeros((4, 3, 3), bool)
    truth[1, 0, :2] = 1
    prediction[1, 0, 0] = prediction[2, 1, 1] = True
    found = slice_dice(prediction, truth, np.array([0, 5, 10, 20], np.int32), 21)
    np.testing.assert_allclose(found.position, [0.25, 0.5])
    np.testing.assert_allclose(found.dice, [2 / 3, 0.0])

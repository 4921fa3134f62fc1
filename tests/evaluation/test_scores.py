"""Figures of patients, their intervals and calibration, and the table on disk."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score

from seglab.core.errors import UserError
from seglab.evaluation.metrics import PatientScore, score_patient
from seglab.evaluation.scores import (
    FIGURES,
    calibration,
    from_csv,
    in_question,
    interval,
    intervals,
    reliability,
    slice_dice,
    stratify,
    summarise,
    to_csv,
)
from seglab.evaluation.statistics import RESAMPLES

SPACING = (1.0, 1.0, 1.0)


def drawn(count: int) -> tuple[list[PatientScore], np.ndarray, np.ndarray]:
    """Scores, predictions and truths of patients, of which the last has no tumour."""
    rng = np.random.default_rng(1)
    truth = rng.random((count, 4, 12, 12)) < 0.3
    pred = truth ^ (rng.random(truth.shape) < 0.1)
    truth[:, 0] = truth[::2, 1] = False  # not all have as many slices with tumour
    truth[-1] = False
    pred[0, 0] = False
    scores = [
        score_patient(f"p{i}", p, t, SPACING, True, grade="HGG" if i % 2 else None)
        for i, (p, t) in enumerate(zip(pred, truth, strict=True))
    ]
    return scores, pred, truth


def test_summary_follows_its_definitions() -> None:
    scores, pred, truth = drawn(5)
    summary = summarise(scores)
    dice = [f1_score(t.ravel(), p.ravel()) for p, t in zip(pred[:-1], truth[:-1], strict=True)]
    pairs = list(zip(pred.reshape(-1, 144), truth.reshape(-1, 144), strict=True))
    expected = {
        "dice": np.mean(dice),
        "dice_sd": np.std(dice, ddof=1),
        "dice_pooled": f1_score(truth.ravel(), pred.ravel()),
        "dice_slice_empty1": np.mean([f1_score(t, p, zero_division=1.0) for p, t in pairs]),
        "dice_slice_tumour": np.mean([f1_score(t, p) for p, t in pairs if t.any()]),
        "empty_slice_fp_rate": np.mean([p.any() for p, t in pairs if not t.any()]),
        "patients": 5,
        "patients_without_tumour": 1,
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected)


def test_nothing_scored_is_nan_without_a_warning() -> None:
    summary = summarise([])
    assert np.isnan([summary[name] for name in FIGURES]).all()
    assert summary["patients"] == 0


floats = st.floats(allow_nan=False, allow_infinity=False) | st.just(math.nan)


@settings(deadline=None, max_examples=50)
@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=4),
    value=floats,
)
def test_a_table_comes_back_to_the_bit(names: list[str], value: float) -> None:
    template = drawn(1)[0][0]
    written = [replace(template, patient_id=n, dice=value, hd95_mm=math.nan) for n in names]
    read = from_csv(to_csv(written).encode(), "t.csv")
    for left, right in zip(read, written, strict=True):
        assert repr(left) == repr(right)


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (lambda text: text.replace("p1", "p0"), "'p0' is listed twice"),
        (lambda text: text.replace("hd95_mm", "hd95"), "no column 'hd95_mm'"),
        (lambda text: text.replace("p2,,", "p2,,x"), "row 4, column 'dice': 'x"),
        (lambda text: ",".join(text.split(",")[:-6]), "row 6 has no column 'fp_volume_ml'"),
        (lambda text: text + '"', "cannot be read as CSV"),
        (lambda text: text + "\0", "row 7 has no column"),
    ],
)
def test_a_damaged_table_names_its_fault(damage, culprit: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=rf"t\.csv.*{culprit}"):
        from_csv(damage(to_csv(drawn(5)[0])).encode(), "t.csv")


def test_a_table_of_an_earlier_version_has_no_lesions() -> None:
    rows = [line.rsplit(",", 5)[0] for line in to_csv(drawn(5)[0]).splitlines()]
    for score in from_csv("\n".join(rows).encode(), "t.csv"):
        assert np.isnan([score.lesion_f1, score.lesions_missed, score.lesion_dice]).all()


def test_every_figure_is_the_summary_s_over_those_who_have_it_and_in_its_interval() -> None:
    scores, _, _ = drawn(12)
    summary, found = summarise(scores), intervals(scores)
    assert found.keys() == FIGURES.keys()
    for name, figure in found.items():
        assert figure.value == pytest.approx(summary[name]), name
        assert figure.low <= figure.value <= figure.high, name
    assert found["dice"].patients == found["dice_slice_tumour"].patients == 11
    assert found["dice_slice_empty1"].patients == 12


def test_a_mean_has_the_studentised_interval_of_its_resamples() -> None:
    scores, _, _ = drawn(21)
    dice = np.array([score.dice for score in scores[:20]])
    sample = dice[np.random.default_rng(0).integers(0, 20, (RESAMPLES, 20))]
    pivots = np.sort(np.abs(sample.mean(axis=1) - dice.mean()) / stats.sem(sample, axis=1))
    found = intervals(scores)["dice"]
    half = pivots[math.ceil(0.95 * RESAMPLES) - 1] * stats.sem(dice)
    assert found.high - found.value == pytest.approx(half)
    low, high = stats.ttest_1samp(dice[:5], 0).confidence_interval(0.95)
    few = interval([(value, 1.0) for value in dice[:5]])
    assert (few.low, few.high) == pytest.approx((low, high))


def test_an_interval_of_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    """Patients of 1 to 10 slices with a false-alarm rate of 0.3, known by construction."""
    rng = np.random.default_rng(1)
    covered, trials = 0, 150
    for _ in range(trials):
        slices = rng.integers(1, 11, 40)
        alarms = rng.binomial(slices, 0.3)
        found = interval(list(zip(alarms, slices, strict=True)), 1.0)
        covered += found.low <= 0.3 <= found.high
    # Binomial spread of 0.95 over 150 trials is 0.018.
    assert 0.89 <= covered / trials <= 1.0


def test_shares_stay_shares_and_nothing_is_made_of_nothing() -> None:
    perfect = interval([(1.0, 1.0), (0.9, 1.0)], 1.0)
    assert perfect.low < 0.95 < perfect.high == 1.0
    single = interval([(0.5, 1.0), (0.0, 0.0)], 1.0)
    assert (single.value, single.patients) == (0.5, 1)
    assert math.isnan(single.low)
    assert math.isnan(interval([(0.0, 0.0)]).value)


def test_calibration_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(2)
    probability = rng.random((4, 30, 30)).astype(np.float32)
    truth = (rng.random(probability.shape) < probability**2).astype(np.uint8)
    inside = rng.random(probability.shape) < 0.7
    halves = [reliability(probability[s], truth[s], inside[s]) for s in (slice(2), slice(2, 4))]
    pooled = halves[0] + halves[1]
    found, share, error = calibration(pooled)
    frequency, confidence = calibration_curve(truth[inside], probability[inside], n_bins=10)
    np.testing.assert_allclose(share, frequency)
    np.testing.assert_allclose(found, confidence, rtol=1e-5)
    weights = pooled[0] / inside.sum()
    expected = (weights * np.abs(frequency - confidence)).sum()
    assert error == pytest.approx(expected, rel=1e-4)


def test_in_question_is_the_brain_within_ten_pixels_of_a_mark_in_its_slice() -> None:
    truth, prediction = np.zeros((2, 2, 60, 60), np.uint8)
    truth[0, 30, 30] = prediction[0, 30, 34] = 1
    brain = np.ones(truth.shape, bool)
    brain[0, 30, 25] = False
    rows, columns = np.indices((60, 60))
    near = [np.hypot(rows - 30, columns - centre) <= 10 for centre in (30, 34)]
    found = in_question(brain, truth, prediction)
    assert not found[1].any(), "a slice without a mark is not in question"
    wanted = (near[0] | near[1]) & brain[0]
    # OpenCV's disc is rounded to whole pixels.
    assert np.count_nonzero(found[0] != wanted) < 0.05 * wanted.sum()
    assert not found[0, 30, 25]


def test_slices_without_tumour_and_prediction_have_no_dice() -> None:
    truth = np.zeros((4, 3, 3), np.uint8)
    prediction = np.zeros((4, 3, 3), bool)
    truth[1, 0, :2] = 1
    prediction[1, 0, 0] = prediction[2, 1, 1] = True
    place, dice = slice_dice(prediction, truth, np.array([0, 5, 10, 20], np.int32), 21)
    np.testing.assert_allclose(place, [0.25, 0.5])
    np.testing.assert_allclose(dice, [2 / 3, 0.0])


def test_tertiles_are_equal_shares_of_the_patients_with_tumour() -> None:
    volumes = np.random.default_rng(0).lognormal(3, 1, 91)
    volumes[5], volumes[6] = 0, np.nan
    labels = stratify(volumes)
    assert labels[5] is labels[6] is None
    by_size = {name: volumes[[label == name for label in labels]] for name in set(labels) - {None}}
    assert by_size["small"].max() < by_size["medium"].min()
    assert by_size["medium"].max() < by_size["large"].min()
    assert sorted(map(len, by_size.values())) == [29, 30, 30]
    assert stratify([0, 0]) == [None, None]

"""Learning curves against laws that are known, and a fit by scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

from seglab.core.factors import TRAIN_PATIENTS, Design
from seglab.evaluation.learning_curve import LearningCurve, fit_power_law, learning_curve

SIZES = (10, 20, 40, 80)


def curve_of(sizes: tuple[int, ...], values: np.ndarray) -> LearningCurve:
    """``values``: (sizes, draws, patients)."""
    design = Design({TRAIN_PATIENTS: [str(size) for size in sizes]})
    names = [f"patient {k}" for k in range(values.shape[2])]
    points = list(zip(design.points, values, strict=True))
    arms = {arm: pd.DataFrame(one, columns=names) for arm, one in reversed(points)}
    found = learning_curve(arms, design)
    assert found is not None
    return found


def law(x: np.ndarray, limit: float, scale: float, exponent: float) -> np.ndarray:
    return np.asarray(limit - scale * x**-exponent)


def planted(rng: np.random.Generator, sizes: tuple[int, ...] = SIZES) -> np.ndarray:
    """Draws differ more with few patients; validation patients have a difficulty of their own."""
    x = np.array(sizes, float)
    draws = rng.normal(0, 0.03, (len(x), 3, 1)) / np.sqrt(x / 10)[:, None, None]
    patients = rng.normal(0, 0.05, 30) + rng.normal(0, 0.02, (len(x), 3, 30))
    return law(x, 0.9, 0.8, 0.6)[:, None, None] + draws + patients


def test_the_fit_is_that_of_scipy() -> None:
    x, rng = np.array(SIZES, float), np.random.default_rng(1)
    y = law(x, 0.88, 0.7, 0.7) + rng.normal(0, 0.003, 4)
    ours = fit_power_law(x, y[None])[0]
    theirs, _ = curve_fit(law, x, y, p0=(0.9, 1, 0.5), bounds=([0, 0, 0.05], [1, 9, 2]))
    assert law(x, *ours) == pytest.approx(law(x, *theirs), abs=2e-4)
    assert law(160.0, *ours) == pytest.approx(law(160.0, *theirs), abs=1e-3)  # type: ignore[arg-type]


def test_a_law_never_falls_nor_passes_one() -> None:
    x = np.array(SIZES, float)
    laws = fit_power_law(x, np.array([[0.8, 0.7, 0.6, 0.5], [0.5, 0.7, 0.9, 1.0], [0.7] * 4]))
    assert (laws[:, 0] <= 1).all()
    assert (laws[:, 1] >= 0).all()
    assert law(x, *laws[2]) == pytest.approx([0.7] * 4)


def test_intervals_hold_the_truth_and_the_extrapolation_is_one() -> None:
    rng, truth = np.random.default_rng(2), law(np.array([10.0, 20, 40, 80, 160]), 0.9, 0.8, 0.6)
    covered, doubled = 0, 0
    for _ in range(30):
        found = curve_of(SIZES, planted(rng))
        covered += sum(p.low <= t <= p.high for p, t in zip(found.points, truth, strict=False))
        more = found.doubled
        assert more is not None
        assert more.patients == 160
        doubled += more.low <= truth[4] <= more.high
    assert covered >= 0.9 * 30 * 4
    assert doubled >= 0.8 * 30


def test_three_sizes_are_not_extrapolated() -> None:
    found = curve_of(SIZES[:3], planted(np.random.default_rng(3), SIZES[:3]))
    assert (found.doubled, found.to_json()["power_law"]) == (None, None)
    assert [p.patients for p in found.points] == [10, 20, 40]
    assert found.to_json()["points"][0]["draws"] == 3

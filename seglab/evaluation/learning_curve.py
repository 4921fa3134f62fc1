"""Dice over the number of training patients, and the power law that is fitted to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from seglab.core.factors import Design
from seglab.evaluation.comparison import LEVEL, pair_patients
from seglab.evaluation.statistics import RESAMPLES, FloatArray, paired_test, seed_variance

FEWEST_SIZES = 4
"""For three parameters, so that one size can contradict them."""
REFITS = 400
_EXPONENTS = np.linspace(0.05, 2.0, 79)


@dataclass(frozen=True)
class CurvePoint:
    """Mean Dice at one number of training patients."""

    patients: int
    draws: int
    """Seeds: each draws its own training patients."""
    dice: float
    low: float
    """95 % over validation patients and, with several, over draws; NaN where nothing bounds it."""
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """What was measured, and dice(n) = limit - scale · n ** -exponent through it."""

    points: tuple[CurvePoint, ...]
    law: FloatArray | None
    """limit, scale, exponent; None with fewer than four sizes."""
    refits: FloatArray
    """(R, 3) the same of resamples of validation patients and draws."""

    def predict(self, patients: FloatArray) -> FloatArray:
        """Dice by the law, and its 95 % limits: (3, n); beyond the largest size extrapolated."""
        assert self.law is not None
        curves = _curve(np.vstack([self.law, self.refits]), patients)
        limits = np.quantile(curves[1:], [LEVEL / 2, 1 - LEVEL / 2], axis=0)
        return np.vstack([curves[:1], limits])

    @property
    def doubled(self) -> CurvePoint | None:
        """What twice the largest number would give if the law went on: an extrapolation."""
        if self.law is None:
            return None
        more = 2 * self.points[-1].patients
        dice, low, high = self.predict(np.array([float(more)]))[:, 0]
        return CurvePoint(more, 0, float(dice), float(low), float(high))

    def without_intervals(self) -> LearningCurve:
        """As a page shows it over few patients: NaN for every limit."""
        points = tuple(replace(point, low=np.nan, high=np.nan) for point in self.points)
        return replace(self, points=points, refits=self.refits * np.nan)

    def to_json(self) -> dict[str, Any]:
        """As ``comparison.json`` holds it."""
        law = None if self.law is None else self.law.tolist()
        return {
            "points": [asdict(point) for point in self.points],
            "power_law": law and dict(zip(("limit", "scale", "exponent"), law, strict=True)),
            "extrapolated": self.doubled and asdict(self.doubled),
        }


def learning_curve(arms: Mapping[str, pd.DataFrame], design: Design) -> LearningCurve | None:
    """Measure and fit the curve; None where the arms are not numbers of training patients.

    Raises UserError as :func:`compare_arms` does.
    """
    if not design.sizes:
        return None
    named = {int(design.sizes[k]): name for name, (k,) in design.points.items() if name in arms}
    if not named:
        return None
    sizes = sorted(named)
    _, _, by_seed = pair_patients({named[size]: arms[named[size]] for size in sizes})
    points = []
    for size, values in zip(sizes, by_seed, strict=True):
        # Not pooled over sizes: fewer patients differ more from draw to draw.
        noise, draws = seed_variance([values]), len(values)
        test = paired_test(
            values.mean(axis=0)[None], [1 / draws], noise, np.random.default_rng(0), RESAMPLES
        )
        dice, half = float(test.diff[0]), float(test.half_width(LEVEL)[0])
        points.append(CurvePoint(size, draws, dice, max(dice - half, 0.0), min(dice + half, 1.0)))
    if len(sizes) < FEWEST_SIZES:
        return LearningCurve(tuple(points), None, np.empty((0, 3)))
    x, rng = np.array(sizes, float), np.random.default_rng(0)
    count = by_seed[0].shape[1]
    resampled = []
    for _ in range(REFITS):
        who = rng.integers(0, count, count)
        drawn = [values[rng.integers(0, len(values), len(values))] for values in by_seed]
        resampled.append([values[:, who].mean() for values in drawn])
    law = fit_power_law(x, np.array([[point.dice for point in points]]))[0]
    return LearningCurve(tuple(points), law, fit_power_law(x, np.array(resampled)))


def fit_power_law(x: FloatArray, y: FloatArray) -> FloatArray:
    """Fit limit - scale · x ** -exponent to rows of ``y`` by least squares: (R, 3).

    The limit is at most 1 and the curve never falls; linear for each of 79 exponents.
    """
    laws = []
    for exponent in _EXPONENTS:
        z = x**-exponent
        centred = z - z.mean()
        scale = np.maximum(-(y @ centred) / np.square(centred).sum(), 0.0)
        limit = y.mean(axis=1) + scale * z.mean()
        scale = np.where(limit > 1, (1 - y) @ z / np.square(z).sum(), scale)
        laws.append([np.minimum(limit, 1.0), scale, np.full(len(y), exponent)])
    every = np.moveaxis(np.array(laws), 1, 2)  # (exponents, R, 3)
    errors = [np.square(_curve(one, x) - y).sum(axis=1) for one in every]
    best: FloatArray = every[np.argmin(errors, axis=0), np.arange(len(y))]
    return best


def _curve(laws: FloatArray, x: FloatArray) -> FloatArray:
    limit, scale, exponent = laws.T[:, :, None]
    curve: FloatArray = limit - scale * x[None] ** -exponent
    return curve

"""Main effects and two-way interactions of a factorial design.

Contrasts of arms within each patient, judged by the test of :mod:`seglab.evaluation.statistics`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from seglab.core.factors import Design
from seglab.evaluation.comparison import LEVEL, not_carried, pair_patients
from seglab.evaluation.statistics import RESAMPLES, FloatArray, holm, paired_test, seed_variance


@dataclass(frozen=True)
class Effect:
    """What another level changes on average over the other factors, or how two changes interact."""

    factors: tuple[str, ...]
    """One: a main effect; two: the change by the first at this level of the second, less that at
    its first level."""
    levels: tuple[str, ...]
    """That are held against the first level of each."""
    diff: float
    ci_low: float
    """Of 95 %, uncorrected; NaN where so few patients bound nothing."""
    ci_high: float
    p: float
    p_holm: float
    """Corrected over the main effects, or over the interactions."""
    aliases: tuple[str, ...]
    """Interactions that the fraction cannot tell it from."""

    @property
    def name(self) -> str:
        """As tables show it."""
        return " × ".join(f"{k}={v}" for k, v in zip(self.factors, self.levels, strict=True))


@dataclass(frozen=True)
class FactorEffects:
    """Effects of every factor of a design on the Dice of the same patients."""

    design: Design
    effects: Sequence[Effect]
    means: FloatArray
    """(arms,) mean Dice, in the order of the design's points."""
    patients: int

    @property
    def interactions(self) -> Sequence[Effect]:
        """Those of any two factors; none in a fraction."""
        return [one for one in self.effects if len(one.factors) == 2]

    def cells(self, first: int, second: int) -> FloatArray:
        """Mean Dice by the levels of two factors, averaged over the others."""
        levels = np.array(list(self.design.points.values()))
        by_cell = pd.Series(self.means).groupby([levels[:, first], levels[:, second]])
        means: FloatArray = by_cell.mean().unstack().to_numpy()
        return means

    def as_shown(self) -> FactorEffects:
        """As a page shows it: without what so few patients do not carry."""
        unknown = not_carried(self.patients)
        return replace(self, effects=[replace(one, **unknown) for one in self.effects])

    def to_json(self) -> dict[str, Any]:
        """As ``comparison.json`` holds it."""
        return asdict(self.design) | {"effects": [asdict(one) for one in self.effects]}


def factor_effects(
    arms: Mapping[str, pd.DataFrame], design: Design, *, resamples: int = RESAMPLES
) -> FactorEffects | None:
    """Estimate the main effects, and in a full grid the interactions of any two factors.

    None where an arm of the design is not among ``arms``, or the factor is the number of training
    patients. Raises UserError as :func:`compare_arms` does.
    """
    points = design.points
    if not arms.keys() >= points.keys() or design.sizes:
        return None
    patients, _, by_seed = pair_patients({name: arms[name] for name in points})
    levels, keys = np.array(list(points.values())), list(design.levels)
    chosen = list(_contrasts(design))
    weights = np.array([_weights(levels, list(design.levels.values()), one) for one in chosen])
    means = np.stack([values.mean(axis=0) for values in by_seed])
    per_mean = np.square(weights) @ np.array([1 / len(values) for values in by_seed])
    rng, noise = np.random.default_rng(0), seed_variance(by_seed)
    test = paired_test(weights @ means, per_mean, noise, rng, resamples)
    half, p_holm, orders = test.half_width(LEVEL), test.p.copy(), np.array([*map(len, chosen)])
    for order in set(orders):
        p_holm[orders == order] = holm(test.p[orders == order])
    effects = [
        Effect(
            factors=tuple(keys[k] for k in one),
            levels=tuple(design.levels[keys[k]][level] for k, level in one.items()),
            diff=float(test.diff[row]),
            ci_low=float(test.diff[row] - half[row]),
            ci_high=float(test.diff[row] + half[row]),
            p=float(test.p[row]),
            p_holm=float(p_holm[row]),
            aliases=tuple(
                f"{keys[a]} × {keys[b]}" for k in one for a, b in design.aliases(k) if len(one) == 1
            ),
        )
        for row, one in enumerate(chosen)
    ]
    return FactorEffects(design, effects, means.mean(axis=1), len(patients))


def _contrasts(design: Design) -> Iterator[dict[int, int]]:
    """Factor to the level that is held against its first: main effects, then interactions."""
    counts = [range(1, len(labels)) for labels in design.levels.values()]
    orders = (1, 2) if design.design == "full" else (1,)
    for order in orders:
        for factors in itertools.combinations(range(len(counts)), order):
            for levels in itertools.product(*(counts[k] for k in factors)):
                yield dict(zip(factors, levels, strict=True))


def _weights(
    levels: FloatArray, labels: Sequence[Sequence[str]], contrast: dict[int, int]
) -> FloatArray:
    """Weight of every arm: 1 over the arms of a level, with the sign of the contrast."""
    weights = np.full(len(levels), 1 / len(levels))
    for k, level in contrast.items():
        signs = (levels[:, k] == level).astype(float) - (levels[:, k] == 0)
        weights *= len(labels[k]) * signs
    return weights

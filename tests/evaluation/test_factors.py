"""Effects of factors against the general linear model of statsmodels, and against counting."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from seglab.core.factors import Design
from seglab.evaluation.factors import FactorEffects, factor_effects


def effects_of(values: np.ndarray, design: Design, resamples: int = 999) -> FactorEffects:
    """``values``: (arms, seeds, patients)."""
    names = [f"patient {k}" for k in range(values.shape[2])]
    points = list(zip(design.points, values, strict=True))
    arms = {arm: pd.DataFrame(one, columns=names) for arm, one in reversed(points)}
    one_less = dict(list(arms.items())[1:])
    assert factor_effects(one_less, design) is None, "an arm is not there"
    found = factor_effects(arms, design, resamples=resamples)
    assert found is not None
    return found


def test_effects_are_those_of_the_linear_model() -> None:
    from statsmodels.formula.api import ols

    design = Design({"loss.name": ("a", "b"), "augment.name": ("x", "y", "z")})
    values = np.random.default_rng(3).normal(0.8, 0.05, (6, 2, 9))
    found = {one.name: one.diff for one in effects_of(values, design).effects}
    points = [(arm, *point) for arm, point in enumerate(design.points.values())]
    rows = [(values[arm, :, p].mean(), a, b) for arm, a, b in points for p in range(9)]
    table = pd.DataFrame(rows, columns=["dice", "loss", "augment"])
    fitted = ols("dice ~ C(loss) * C(augment)", table).fit().params
    mean = table.groupby(["loss", "augment"])["dice"].mean().unstack()
    assert found["loss.name=b × augment.name=z"] == pytest.approx(
        fitted["C(loss)[T.1]:C(augment)[T.2]"]
    )
    assert found["loss.name=b"] == pytest.approx(mean.loc[1].mean() - mean.loc[0].mean())
    assert found["augment.name=y"] == pytest.approx(mean[1].mean() - mean[0].mean())
    assert effects_of(values, design).cells(0, 1) == pytest.approx(mean.to_numpy())


def test_each_family_is_corrected_by_itself_and_t_is_near() -> None:
    design = Design(dict.fromkeys("abc", ("low", "high")))
    values = np.random.default_rng(4).normal(0.8, 0.05, (8, 1, 55))
    found = effects_of(values, design, resamples=9_999)
    levels = np.array(list(itertools.product((0, 1), repeat=3)))
    signs = 2 * levels - 1
    for k, one in enumerate(found.effects[:3]):
        contrast = (signs[:, k] / 4) @ values[:, 0]
        assert one.p == pytest.approx(stats.ttest_1samp(contrast, 0).pvalue, abs=0.02)
    for family in found.effects[:3], found.interactions:
        smallest = min(family, key=lambda one: one.p)
        assert smallest.p_holm == pytest.approx(min(1, 3 * smallest.p))


def test_a_half_of_the_grid_estimates_main_effects_without_noise() -> None:
    design = Design(dict.fromkeys("abcd", ("low", "high")), "main")
    points = np.array(list(design.points.values()))
    values = 0.5 + np.tile((points @ [0.01, 0.02, 0, -0.03])[:, None, None], (1, 1, 7))
    found = effects_of(values, design)
    assert [one.diff for one in found.effects] == pytest.approx([0.01, 0.02, 0, -0.03])
    assert not found.interactions
    assert not any(one.aliases for one in found.effects), "resolution IV"

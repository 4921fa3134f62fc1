"""Error rates of verdicts; ``python -m tests.verdicts`` measures more settings, longer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.test_comparison import compare
from tests.verdicts.rules import RULES, Data, measure
from tests.verdicts.simulate import Setting, draw


def rates(setting: Setting, experiments: int = 1_000):  # type: ignore[no-untyped-def]
    return measure(setting, experiments, ["package"], seed=1)["package"]


@pytest.mark.parametrize(
    "setting",
    [
        Setting(),
        Setting(4),
        Setting(2, 2, sd_run=0.005),
        Setting(2, 2, sd_run=0.012, noise=1.0),
        Setting(3, 3, sd_run=0.01),
        Setting(3, 3, sd_run=0.01, epochs=5, rates=3),
        Setting(4, shape="skewed", noise=0.0),
    ],
    ids=str,
)
def test_equal_arms_are_rarely_claimed_to_differ(setting: Setting) -> None:
    # 6 % and one and a half standard errors; Wilcoxon's test makes 17 % of the last.
    assert rates(setting).any_claim <= 0.07


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_a_planted_difference_is_found_and_held_by_the_interval(seeds: int, shape: str) -> None:
    found = rates(Setting(2, seeds, shape=shape, difference=0.02))  # type: ignore[arg-type]
    assert found.found >= 0.74
    assert 0.93 <= found.covered <= 0.975


def test_a_difference_at_the_margin_is_rarely_called_equivalent() -> None:
    at_margin = Setting(2, 3, sd_run=0.003, shape="normal", difference=0.01, sd=0.02)
    assert rates(at_margin).equivalent <= 0.06


def test_the_simulation_judges_as_the_package_does() -> None:
    rng = np.random.default_rng(2)
    values = draw(rng, Setting(3, 2, sd_run=0.005, difference=0.01), 4)
    p = RULES["package"](Data.of(values, rng)).p.reshape(4, 2)
    for one, expected in zip(values, p, strict=True):
        assert [row.p for row in compare(one, 1_999).rows] == pytest.approx(expected, abs=0.03)

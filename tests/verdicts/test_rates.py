"""Error rates, power and coverage of verdicts on experiments whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from seglab.core.study import MARGIN
from seglab.evaluation.comparison import LEVEL
from seglab.evaluation.statistics import PairedTest, SeedVariance, paired_test, seed_variance
from tests.evaluation.test_comparison import compare
from tests.verdicts.simulate import Array, Setting, draw

RESAMPLES, BATCH, EXPERIMENTS = 1_999, 100, 1_000


def judge(values: Array, rng: np.random.Generator) -> PairedTest:
    """The package's test of (experiments, arms, seeds, patients); rows: experiments × arms."""
    arms, seeds, patients = values.shape[1:]
    means, pooled = values.mean(axis=2), seed_variance([values[:, a] for a in range(arms)])
    if pooled.degrees:
        parts = (np.repeat(part, arms - 1) for part in (pooled.mean_square, pooled.residual))
        pooled = SeedVariance(*parts, degrees=pooled.degrees)
    differences = (means[:, 1:] - means[:, :1]).reshape(-1, patients)
    return paired_test(differences, 2 / seeds, pooled, rng, RESAMPLES)


def rates(setting: Setting) -> dict[str, float]:
    """Shares of experiments (some arm called different, the first arm better) and of arms."""
    rng, others = np.random.default_rng(1), setting.arms - 1
    rows: dict[str, list[Array]] = {"any": [], "found": [], "covered": [], "equivalent": []}
    for _ in range(EXPERIMENTS // BATCH):
        test = judge(draw(rng, setting, BATCH), rng)
        # Holm's procedure rejects some arm exactly where the smallest p is small enough.
        passed = (test.p * others < LEVEL + 1e-9).reshape(-1, others)
        rows["any"].append(passed.any(axis=1))
        rows["found"].append((passed & (test.diff.reshape(-1, others) > 0))[:, 0])
        rows["covered"].append(np.abs(test.diff - setting.difference) <= test.half_width(LEVEL))
        rows["equivalent"].append(test.p_equivalence(MARGIN) <= LEVEL)
    return {name: float(np.mean(found)) for name, found in rows.items()}


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
    assert rates(setting)["any"] <= 0.07


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_a_planted_difference_is_found_and_held_by_the_interval(seeds: int, shape: str) -> None:
    found = rates(Setting(2, seeds, shape=shape, difference=0.02))  # type: ignore[arg-type]
    assert found["found"] >= 0.74
    assert 0.93 <= found["covered"] <= 0.975


def test_a_difference_at_the_margin_is_rarely_called_equivalent() -> None:
    at_margin = Setting(2, 3, sd_run=0.003, shape="normal", difference=0.01, sd=0.02)
    assert rates(at_margin)["equivalent"] <= 0.06


def test_the_simulation_judges_as_the_package_does() -> None:
    rng = np.random.default_rng(2)
    values = draw(rng, Setting(3, 2, sd_run=0.005, difference=0.01), 4)
    p = judge(values, rng).p.reshape(4, 2)
    for one, expected in zip(values, p, strict=True):
        assert [row.p for row in compare(one, 1_999).rows] == pytest.approx(expected, abs=0.03)

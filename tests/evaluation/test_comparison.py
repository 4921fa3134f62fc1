"""Verdicts: what they follow from, and what cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from seglab.core.errors import UserError
from seglab.evaluation.comparison import Comparison, as_shown, compare_arms
from seglab.evaluation.statistics import paired_test, seed_variance, share_first
from tests.verdicts.simulate import Setting, draw


def arm(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(np.atleast_2d(values)).add_prefix("p")


def compare(values: np.ndarray, resamples: int = 999) -> Comparison:
    """Arms (arms, seeds, patients), or a list of (seeds, patients); the first is the baseline."""
    arms = {f"a{i}": arm(one) for i, one in enumerate(values)}
    return compare_arms(arms, "a0", resamples=resamples)


def dice(seed: int, arms: int, patients: int, seeds: int = 1, sd_run: float = 0.0) -> np.ndarray:
    setting = Setting(arms, seeds, patients, sd_run=sd_run)
    return draw(np.random.default_rng(seed), setting, 1)[0]


def test_figures_are_those_of_the_test_of_scipy_and_of_statsmodels() -> None:
    values = dice(1, arms=4, patients=55, seeds=5, sd_run=0.004)
    by_seed = [values[0, :3], values[1], values[2, :2] + 0.03, values[3, :4]]
    found = compare(by_seed)
    means = [one.mean(axis=0) for one in by_seed]
    d = np.array([mean - means[0] for mean in means[1:]])
    per_mean = 1 / 3 + 1 / np.array([5, 2, 4])
    seeds = seed_variance(by_seed)
    test = paired_test(d, per_mean, seeds, np.random.default_rng(0), 999)
    holm = multipletests(test.p, method="holm")[1]
    assert (found.baseline.seeds, found.resamples, found.margin) == (3, 999, 0.01)
    assert found.sd_run == pytest.approx(math.sqrt(seeds.component))
    assert any("different numbers of seeds: 2 to 5" in warning for warning in found.warnings)
    for k, row in enumerate(found.rows):
        assert (row.arm, row.seeds) == (f"a{k + 1}", len(by_seed[k + 1]))
        assert (row.p, row.p_holm) == (test.p[k], holm[k])
        assert row.p_equivalence == test.p_equivalence(0.01)[k]
        assert row.p_wilcoxon == pytest.approx(stats.wilcoxon(d[k]).pvalue)
        assert row.diff == pytest.approx(d[k].mean())
        assert row.sd_diff == pytest.approx(stats.tstd(d[k]))
        assert row.sd_patients == pytest.approx(stats.tstd(means[k + 1]))
        assert row.sd_seeds == pytest.approx(stats.tstd(by_seed[k + 1].mean(axis=1)))
        assert (row.wins, row.losses) == ((d[k] > 0).sum(), (d[k] < 0).sum())
    first = share_first(np.array(means), np.random.default_rng(0), 999)
    assert [one.share_first for one in (found.baseline, *found.rows)] == first.tolist()


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 3), st.sampled_from([4, 9, 30]))
def test_an_interval_leaves_zero_outside_exactly_where_the_verdict_says_so(
    seed: int, arms: int, seeds: int, patients: int
) -> None:
    values = dice(seed, arms, patients, seeds, 0.003)
    values[1:] += np.random.default_rng(seed).choice([0, 0.01, 0.03], (arms - 1, 1, 1))
    found = compare(values)
    open_arms = sum(row.verdict not in ("better", "worse") for row in found.rows)
    assert found.confidence == pytest.approx(1 - 0.05 / max(1, open_arms))
    for row in found.rows:
        assert (row.verdict == "better") == (row.ci_low > 0)
        assert (row.verdict == "worse") == (row.ci_high < 0)
        assert (row.verdict in ("better", "worse")) == (row.p_holm <= 0.05 + 1e-9)


def test_swapping_the_arms_turns_a_claim_round() -> None:
    values = dice(3, arms=2, patients=55)
    arms = {"a": arm(values[0]), "b": arm(values[1] + 0.02)}
    there, back = (compare_arms(arms, name, resamples=999).rows[0] for name in "ab")
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert (there.diff, there.p) == pytest.approx((-back.diff, back.p))
    assert (there.ci_low, there.ci_high) == pytest.approx((-back.ci_high, -back.ci_low))


def test_an_arm_that_widens_the_intervals_of_others_is_named() -> None:
    values = dice(8, arms=4, patients=30, seeds=3, sd_run=0.002)
    assert compare(values).warnings == ()
    values[3] += np.array([[-0.2], [0.0], [0.2]])
    found, without = compare(values), compare(values[:3])
    (told,) = found.warnings
    assert told.startswith("arm 'a3' has an SD of 0.2")
    assert "; arms.a3=null with another name=… compares the others without it" in told
    width, usual = (one.rows[0].ci_high - one.rows[0].ci_low for one in (found, without))
    assert width > 3 * usual
    assert compare(values[[0, 3]]).warnings == (), "without it there is nothing to compare"


def test_equal_arms_of_many_patients_are_equivalent_unless_seeds_differ() -> None:
    rng = np.random.default_rng(5)
    base = rng.beta(8, 2, 300)
    near = np.stack([base, base + rng.normal(0, 0.02, 300)])
    assert compare(near[:, None]).rows[0].verdict == "equivalent"
    between = np.array([[-0.02], [0.02]])
    apart = compare(np.stack([base + between, base + between])).rows[0]
    assert (apart.verdict, apart.needs_seeds) == ("undecided", True)
    same = compare(np.stack([base, base])[:, None, :20]).rows[0]
    assert (same.diff, same.ci_low, same.ci_high, same.p, same.p_wilcoxon) == (0, 0, 0, 1, 1)
    assert (same.wins, same.losses, same.verdict) == (0, 0, "equivalent")


def test_patients_without_a_score_are_left_out_of_every_arm_and_counted() -> None:
    values = dice(7, arms=2, patients=30, seeds=2)
    values[:, :, 4] = np.nan
    values[1, 1, 9] = np.nan
    found = compare(values)
    assert (found.left_out, found.n_patients) == (("p4", "p9"), 28)
    kept = np.delete(values, [4, 9], axis=2)
    assert found.baseline.mean == pytest.approx(kept[0].mean())
    assert found.rows[0].diff == pytest.approx(kept[1].mean() - kept[0].mean())
    assert any("2 of 30 patients" in warning for warning in found.warnings)


def test_one_seed_and_few_patients_are_warned_of_and_one_patient_decides_nothing() -> None:
    found = compare(np.array([[[0.8]], [[0.9]]]))
    assert any("one seed only" in warning for warning in found.warnings)
    assert any("1 patients hardly show" in warning for warning in found.warnings)
    (row,) = found.rows
    assert (row.verdict, row.patients_needed, row.needs_seeds) == ("undecided", None, False)
    assert math.isnan(row.ci_low)
    assert math.isnan(found.sd_run)
    assert compare(dice(8, arms=2, patients=8, seeds=2)).warnings == ()


@pytest.mark.parametrize("patients", [3, 4, 5])
def test_no_interval_is_shown_over_fewer_than_five_patients_and_no_p_over_fewer_than_four(
    patients: int,
) -> None:
    found = compare(dice(9, arms=2, patients=patients, seeds=2))
    shown = as_shown(found)
    (row,) = shown.rows
    shares = [one.share_first for one in (shown.baseline, row)]
    gone = [*map(math.isnan, (row.ci_low, row.ci_high, shown.baseline.mean_low, *shares))]
    assert gone == [patients < 5] * 5
    tests = [row.p, row.p_holm, row.p_wilcoxon]
    assert [*map(math.isnan, tests)] == [patients < 4] * 3
    assert [(one.diff, one.verdict) for one in found.rows] == [(row.diff, row.verdict)]


BASE = {"base": np.ones((2, 3))}


@pytest.mark.parametrize(
    ("arms", "baseline", "culprit"),
    [
        ({}, "base", "no arm has a finished run"),
        (BASE, "bass", "did you mean 'base'"),
        (BASE | {"dice": np.ones((2, 2))}, "base", "arm 'dice' has no patient p2"),
        (BASE | {"dice": np.ones((2, 5))}, "base", "arm 'base' has no patient p3 and 1 more"),
        (BASE | {"dice": np.full((1, 3), np.nan)}, "base", "no patient has a score in every arm"),
    ],
)
def test_what_cannot_be_compared_names_its_culprit(
    arms: dict[str, np.ndarray], baseline: str, culprit: str
) -> None:
    with pytest.raises(UserError, match=culprit):
        compare_arms({name: arm(values) for name, values in arms.items()}, baseline)

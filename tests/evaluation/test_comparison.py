"""Verdicts: figures against scipy and statsmodels, error rates by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from seglab.core.errors import UserError
from seglab.evaluation.arms import ArmScores
from seglab.evaluation.comparison import compare_arms
from seglab.evaluation.power import patients_for_equivalence
from seglab.evaluation.seed_noise import p_beyond_seeds, p_equivalence_beyond_seeds, seed_noise
from seglab.evaluation.strata import stratify
from tests.verdicts.simulate import Setting, compare, equal_arms


def arm(name: str, values: np.ndarray, seeds: tuple[int, ...] | None = None) -> ArmScores:
    values = np.atleast_2d(values)
    patients = tuple(f"p{i}" for i in range(values.shape[1]))
    return ArmScores(name, seeds or tuple(range(len(values))), patients, values)


def dice_arms(
    rng: np.random.Generator, arms: int, patients: int, seeds: int = 1, sd_run: float = 0.0
) -> np.ndarray:
    return equal_arms(rng, Setting(arms, seeds, patients, sd_run))


def test_every_figure_equals_scipy_and_statsmodels() -> None:
    values = dice_arms(np.random.default_rng(1), arms=4, patients=55, seeds=3)
    values[2] += 0.02
    rows = compare(values).rows
    means = values.mean(axis=1)
    p = [stats.wilcoxon(means[i] - means[0]).pvalue for i in (1, 2, 3)]
    p_holm = multipletests(p, method="holm")[1]
    for i, row in enumerate(rows, start=1):
        d = means[i] - means[0]
        assert row.arm == f"a{i}"
        assert row.mean == pytest.approx(means[i].mean(), rel=1e-12)
        assert row.diff == pytest.approx(d.mean(), rel=1e-9)
        assert row.p == pytest.approx(p[i - 1], rel=1e-9)
        assert row.p_holm == pytest.approx(p_holm[i - 1], rel=1e-9)
        equivalence = ttost_paired(means[i], means[0], -0.01, 0.01)[0]
        assert row.p_equivalence == pytest.approx(equivalence, rel=1e-9)
        assert row.sd_diff == pytest.approx(stats.tstd(d), rel=1e-9)
        assert row.sd_patients == pytest.approx(stats.tstd(means[i]), rel=1e-9)
        assert row.sd_seeds == pytest.approx(stats.tstd(values[i].mean(axis=1)), rel=1e-9)
        assert (row.wins, row.losses) == ((d > 0).sum(), (d < 0).sum())


def test_patients_to_detect_are_statsmodels_where_one_seed_tells_of_no_luck() -> None:
    values = dice_arms(np.random.default_rng(1), arms=4, patients=55)
    values[2] += 0.02
    for i, row in enumerate(compare(values).rows, start=1):
        d = values[i, 0] - values[0, 0]
        exact = TTestPower().solve_power(abs(d.mean()) / stats.tstd(d), power=0.8, alpha=0.05 / 3)
        assert row.patients_to_detect == pytest.approx(exact, abs=2)


def test_arms_of_unequal_seeds_have_each_its_own_luck() -> None:
    values = dice_arms(np.random.default_rng(3), arms=3, patients=40, seeds=5, sd_run=0.01)
    seeds = [values[0, :2], values[1, :5] + 0.02, values[2, :3]]
    found = compare_arms([arm(f"a{i}", each) for i, each in enumerate(seeds)], "a0")
    noise = seed_noise(seeds)
    d = [each.mean(axis=0) - seeds[0].mean(axis=0) for each in seeds[1:]]
    shares = [1 / 5 + 1 / 2, 1 / 3 + 1 / 2]
    beyond = [p_beyond_seeds(x, share, noise) for x, share in zip(d, shares, strict=True)]
    wrong = [2 * row.p_false_claim for row in found.rows]
    corrected = [multipletests(family, method="holm")[1] for family in (beyond, wrong)]
    assert (found.margin, found.resamples) == (0.01, 10_000)
    assert (found.baseline.seeds, *(row.seeds for row in found.rows)) == (2, 5, 3)
    for i, row in enumerate(found.rows):
        assert (row.p_seeds, row.p_mean_holm) == pytest.approx([f[i] for f in corrected])
        equal = p_equivalence_beyond_seeds(d[i], 0.01, shares[i], noise)
        assert row.p_equivalence_seeds == pytest.approx(equal)
        sizes = (row.diff, row.sd_diff, 0.01, 0.05, noise.cautious * shares[i])
        assert row.patients_for_equivalence == patients_for_equivalence(*sizes)


def test_spreads_of_one_are_unknown_and_of_two_known() -> None:
    values = dice_arms(np.random.default_rng(4), arms=2, patients=2, seeds=2)
    rows = compare(values).rows
    assert rows[0].sd_seeds == pytest.approx(stats.tstd(values[1].mean(axis=1)))
    assert rows[0].sd_diff > 0
    assert math.isnan(compare(values[:, :1]).rows[0].sd_seeds)


def test_the_interval_is_near_students_and_named_by_its_resamples() -> None:
    values = dice_arms(np.random.default_rng(2), arms=2, patients=80)
    found = compare(values, 10_000)
    d = values[1, 0] - values[0, 0]
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    row = found.rows[0]
    assert (row.ci_low, row.ci_high) == pytest.approx((low, high), abs=0.1 * (high - low))
    draws = np.random.default_rng(0).integers(0, 80, (10_000, 80))
    pivots = np.abs(d[draws].mean(axis=1) - d.mean()) / stats.sem(d[draws], axis=1)
    beyond = np.count_nonzero(pivots >= abs(d.mean()) / stats.sem(d))
    assert row.p_false_claim == pytest.approx((1 + beyond) / 10_001 / 2, abs=1e-12)
    assert repr(compare(values, 10_000)) == repr(found)


def test_swapping_the_arms_turns_every_claim_round() -> None:
    values = dice_arms(np.random.default_rng(3), arms=2, patients=55)
    values[1] += 0.02
    arms = [arm("a", values[0]), arm("b", values[1])]
    there, back = compare_arms(arms, "a").rows[0], compare_arms(arms, "b").rows[0]
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert there.diff == pytest.approx(-back.diff)
    assert (there.ci_low, there.ci_high) == pytest.approx((-back.ci_high, -back.ci_low))
    assert there.p == pytest.approx(back.p)
    assert there.p_false_claim == pytest.approx(back.p_false_claim)


def test_the_order_of_patients_in_an_arm_does_not_matter() -> None:
    values = dice_arms(np.random.default_rng(4), arms=2, patients=20)
    first, second = arm("a", values[0]), arm("b", values[1])
    turned = ArmScores("b", second.seeds, second.patients[::-1], second.values[:, ::-1])
    assert repr(compare_arms([first, turned], "a")) == repr(compare_arms([first, second], "a"))


def test_equal_arms_of_many_patients_are_equivalent() -> None:
    rng = np.random.default_rng(5)
    base = rng.beta(8, 2, 300)
    row = compare(np.stack([base, base + rng.normal(0, 0.02, 300)])[:, None]).rows[0]
    assert row.verdict == "equivalent"


def test_identical_arms_are_equivalent_and_claim_nothing() -> None:
    base = np.random.default_rng(6).beta(8, 2, 20)
    row = compare(np.stack([base, base])[:, None]).rows[0]
    assert (row.diff, row.ci_low, row.ci_high, row.p, row.p_false_claim) == (0, 0, 0, 1, 0.5)
    assert (row.wins, row.losses, row.verdict) == (0, 0, "equivalent")
    assert row.patients_to_detect is None
    assert row.patients_needed == row.patients_for_equivalence


def test_patients_without_a_score_are_left_out_of_every_arm_and_counted() -> None:
    values = dice_arms(np.random.default_rng(7), arms=2, patients=30, seeds=2)
    values[:, :, 4] = np.nan
    values[1, 1, 9] = np.nan
    found = compare(values)
    assert found.left_out == ("p4", "p9")
    assert found.n_patients == 28
    kept = np.delete(values, [4, 9], axis=2)
    assert found.baseline.mean == pytest.approx(kept[0].mean())
    assert found.rows[0].diff == pytest.approx(kept[1].mean() - kept[0].mean())
    assert any("2 of 30 patients" in warning for warning in found.warnings)


def test_one_seed_and_few_patients_are_warned_of() -> None:
    found = compare(dice_arms(np.random.default_rng(8), arms=2, patients=5))
    assert math.isnan(found.sd_run)
    text = " ".join(found.warnings)
    assert "one seed only" in text
    assert "at least 6 are needed" in text
    assert "Student" in text
    plenty = compare(dice_arms(np.random.default_rng(8), arms=2, patients=8, seeds=2))
    assert plenty.warnings == ()


def test_the_warned_number_of_patients_is_the_one_that_can_decide() -> None:
    def all_better(patients: int, arms: int) -> float:
        values = np.zeros((arms, 1, patients))
        values[1:] = np.arange(1, patients + 1) / 100
        return max(row.p_holm for row in compare(values).rows)

    for arms in (2, 3, 5, 9):
        few = compare(np.random.default_rng(0).random((arms, 1, 3))).warnings
        needed = int(next(w for w in few if "needed" in w).split("at least ")[1].split()[0])
        assert all_better(needed, arms) < 0.05 <= all_better(needed - 1, arms)


def test_the_interval_of_a_mean_dice_stays_within_its_range() -> None:
    for values in ([0.99, 0.98, 0.7], [0.0, 0.0, 0.4]):
        summary = compare_arms([arm("a", np.array([values]))], "a").baseline
        assert 0 <= summary.mean_low < np.mean(values) < summary.mean_high <= 1
    assert summary.mean_low == 0


def test_one_patient_decides_nothing() -> None:
    row = compare(np.array([[[0.8]], [[0.9]]])).rows[0]
    assert row.verdict == "undecided"
    assert math.isnan(row.ci_low)
    assert row.patients_needed is None


def test_a_lucky_run_does_not_make_arms_equivalent() -> None:
    base = np.random.default_rng(9).beta(8, 2, 300)
    luck = np.array([[-0.02], [0.02]])
    found = compare(np.stack([base + luck, base + luck]))
    assert found.rows[0].p_equivalence < 1e-9
    assert found.rows[0].p_equivalence_seeds > 0.05
    assert found.rows[0].verdict == "undecided"
    assert compare(np.stack([base + luck / 100] * 2)).rows[0].verdict == "equivalent"


def test_a_difference_within_the_luck_of_seeds_is_not_claimed() -> None:
    values = dice_arms(np.random.default_rng(9), arms=2, patients=300, seeds=3)
    values += np.array([[-0.03], [0.0], [0.03]])
    values[1] += 0.02
    found = compare(values)
    assert found.rows[0].p_holm < 0.001
    assert found.rows[0].verdict == "undecided"
    assert found.rows[0].patients_needed is None
    assert any("more seeds would decide, not more pat" in warning for warning in found.warnings)
    assert found.sd_run == pytest.approx(0.03, rel=0.1)


BASE = arm("base", np.full((2, 3), 0.8))


@pytest.mark.parametrize(
    ("build", "culprit"),
    [
        (lambda: compare_arms([BASE], "bse"), "unknown baseline arm 'bse'.*'base'"),
        (lambda: compare_arms([], "base"), "no arm has a finished run"),
        (lambda: compare_arms([BASE, BASE], "base"), "arm 'base' is given twice"),
        (lambda: arm("dice", np.ones((2, 3)), seeds=(1, 1)), "arm 'dice': seed 1 is given twice"),
        (lambda: arm("dice", np.ones((0, 3)), seeds=()), "no finished seed"),
        (
            lambda: compare_arms([BASE, arm("dice", np.ones((2, 2)))], "base"),
            "arm 'dice' has no patient p2",
        ),
        (
            lambda: compare_arms([BASE, arm("dice", np.ones((2, 5)))], "base"),
            "arm 'base' has no patient p3 and 1 more",
        ),
        (
            lambda: compare_arms([BASE, arm("dice", np.full((1, 3), np.nan))], "base"),
            "no patient has a score in every arm",
        ),
    ],
)
def test_what_cannot_be_compared_names_its_culprit(
    build: Callable[[], object], culprit: str
) -> None:
    with pytest.raises(UserError, match=culprit):
        build()


def test_tertiles_are_equal_shares_of_the_patients_with_tumour() -> None:
    volumes = np.random.default_rng(0).lognormal(3, 1, 91)
    volumes[5] = 0
    volumes[6] = np.nan
    labels = stratify(volumes)
    assert labels[5] is None
    assert labels[6] is None
    by_size = {name: volumes[[label == name for label in labels]] for name in set(labels) - {None}}
    assert by_size["small"].max() < by_size["medium"].min()
    assert by_size["medium"].max() < by_size["large"].min()
    assert sorted(map(len, by_size.values())) == [29, 30, 30]
    assert stratify([0, 0]) == [None, None]

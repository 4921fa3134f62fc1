"""Which arms differ from the baseline: paired over patients, one word each.

Seeds are averaged within a patient; patients are the sample. For every arm the
mean difference to the baseline is given with a studentised bootstrap interval,
Wilcoxon's signed-rank test with Holm's correction over the arms, the probability that
the claimed direction is false, and a test of equivalence. The verdict is

- ``better`` or ``worse`` where three p are below the level (1 - confidence), each corrected
  over the arms: Wilcoxon's, that of the mean by the interval's resamples (which puts the
  interval on one side of zero) and, where several seeds tell, that beyond the luck of runs;
- ``equivalent`` where it is neither and the two one-sided tests place the mean
  difference within the margin, the luck of runs counted where it is known (each arm
  at its own level: the correction guards claims of a difference, not of its absence);
- ``undecided`` otherwise, with the number of patients that would decide.

Wilcoxon's test guards against outliers; ranks alone find skewed differences of mean 0, so
the mean has a test of its own; the spread over seeds keeps one lucky run from passing for a
better method. With equal arms any ``better`` or ``worse`` is as rare as the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import unknown_name
from seglab.evaluation import paired_tests, power
from seglab.evaluation.arms import ArmScores, PairedTable, pair
from seglab.evaluation.bootstrap import bootstrap
from seglab.evaluation.cautions import cautions, seed_cautions
from seglab.evaluation.seed_noise import (
    SeedNoise,
    p_beyond_seeds,
    p_equivalence_beyond_seeds,
    seed_noise,
)

FloatArray = NDArray[np.float64]
Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class ArmSummary:
    """One arm by itself."""

    arm: str
    seeds: int
    mean: float
    mean_low: float
    """Interval of the mean over patients, within [0, 1] as Dice is."""
    mean_high: float
    sd_patients: float
    """Spread over patients of the score averaged over seeds (n - 1)."""
    sd_seeds: float
    """Spread over seeds of the mean over patients (n - 1); NaN with one seed."""


@dataclass(frozen=True)
class ArmRow(ArmSummary):
    """One arm against the baseline; differences are arm minus baseline."""

    diff: float
    ci_low: float
    ci_high: float
    sd_diff: float
    """Spread over patients of the difference."""
    p: float
    """Wilcoxon signed-rank, two-sided."""
    p_holm: float
    """Corrected over the arms of the comparison."""
    p_mean_holm: float
    """Of the mean difference by the interval's resamples, two-sided, corrected."""
    p_seeds: float
    """The difference against patients and seeds both as luck, corrected; NaN: one seed."""
    p_false_claim: float
    """That the mean difference has the other sign; at least 2**-patients, at most 0.5."""
    p_equivalence: float
    """Two one-sided t-tests within the margin."""
    p_equivalence_seeds: float
    """The same with patients and seeds both as luck; NaN: one seed."""
    verdict: Verdict
    patients_to_detect: int | None
    """Patients to find a difference like the observed one; None: no number would."""
    patients_for_equivalence: int | None
    """Patients to show equivalence; None: the difference is too large, or seeds too few."""
    wins: int
    """Patients the arm scores higher than the baseline."""
    losses: int

    @property
    def patients_needed(self) -> int | None:
        """Patients that would decide one way or the other, if the observed figures held."""
        known = filter(None, (self.patients_to_detect, self.patients_for_equivalence))
        return min(known, default=None)

    @property
    def needs_seeds(self) -> bool:
        """Whether no number of patients would decide, for the luck of so few seeds."""
        return self.patients_needed is None and not np.isnan(self.p_seeds)


@dataclass(frozen=True)
class Comparison:
    """All arms against the baseline."""

    baseline: ArmSummary
    rows: tuple[ArmRow, ...]  # the other arms, in the order given
    patients: tuple[str, ...]
    left_out: tuple[str, ...]
    """Patients without a score."""
    sd_run: float
    """Spread that a seed alone gives to an arm's mean, over all arms; NaN: one seed."""
    margin: float
    confidence: float
    resamples: int
    warnings: tuple[str, ...]

    @property
    def n_patients(self) -> int:
        """Patients compared."""
        return len(self.patients)


def compare_arms(
    arms: Sequence[ArmScores],
    baseline: str,
    *,
    margin: float = 0.01,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare every arm with ``baseline``, paired over patients.

    Args:
        arms: Scores in which higher is better, such as Dice.
        baseline: Name of one of them.
        margin: Difference that does not matter, above 0, in units of the score.
        confidence: Of the intervals; 1 - confidence is the level of the tests.
        resamples: Of the bootstrap; the same patients are drawn for every arm.
        seed: Of the bootstrap.

    Raises:
        UserError: see :func:`seglab.evaluation.arms.pair`; or an unknown baseline.
    """
    table = pair(arms)
    if baseline not in table.arms:
        raise unknown_name("baseline arm", baseline, table.arms)
    base, noise = table.arms.index(baseline), seed_noise(table.by_seed)
    drawn = _Draws(resamples, confidence, seed)
    summaries, rows = _judge(table, base, noise, margin, drawn)
    return Comparison(
        baseline=summaries[base],
        rows=rows,
        patients=table.patients,
        left_out=table.left_out,
        sd_run=float(np.sqrt(noise.variance)),
        margin=margin,
        confidence=confidence,
        resamples=resamples,
        warnings=(*cautions(table, drawn.level), *seed_cautions(rows, noise.variance, drawn.level)),
    )


@dataclass(frozen=True)
class _Draws:
    resamples: int
    confidence: float
    seed: int

    @property
    def level(self) -> float:
        return 1 - self.confidence


def _judge(
    table: PairedTable, base: int, noise: SeedNoise, margin: float, drawn: _Draws
) -> tuple[list[ArmSummary], tuple[ArmRow, ...]]:
    """Summarise every arm, and hold each but ``base`` against it."""
    others = [i for i in range(len(table.arms)) if i != base]
    means = table.means
    differences = means[others] - means[base]
    rng = np.random.default_rng(drawn.seed)
    sample = bootstrap(np.vstack([means, differences]), drawn.resamples, rng)
    half, wrong = sample.half_widths(drawn.confidence), sample.p_wrong_sign()
    tests = _tests(table, base, others, differences, wrong[len(means) :], noise, margin)
    summaries = [_summary(table, i, float(half[i])) for i in range(len(table.arms))]
    rows = tuple(
        _row(summaries[i], d, float(half[k]), float(wrong[k]), test, margin, drawn.level)
        for k, (i, d, test) in enumerate(zip(others, differences, tests, strict=True), len(means))
    )
    return summaries, rows


@dataclass(frozen=True)
class _Tests:
    """What is tested of one arm; corrections depend on the other arms."""

    p: float
    p_holm: float
    p_mean_holm: float
    p_seeds: float
    p_equivalence: float
    p_equivalence_seeds: float
    family: int
    seed_variance: float
    """That seeds add to the squared error of the difference; 0 where it is unknown."""


def _tests(
    table: PairedTable,
    base: int,
    others: list[int],
    differences: FloatArray,
    p_wrong_sign: FloatArray,
    noise: SeedNoise,
    margin: float,
) -> list[_Tests]:
    p = paired_tests.wilcoxon(differences)
    per_mean = [1 / len(table.by_seed[i]) + 1 / len(table.by_seed[base]) for i in others]
    beyond = [p_beyond_seeds(d, n, noise) for d, n in zip(differences, per_mean, strict=True)]
    families = (p, 2 * p_wrong_sign, beyond)
    by_ranks, by_mean, by_seeds = [paired_tests.holm(family) for family in families]
    return [
        _Tests(
            p=float(p[k]),
            p_holm=float(by_ranks[k]),
            p_mean_holm=float(by_mean[k]),
            p_seeds=float(by_seeds[k]),
            p_equivalence=paired_tests.equivalence(d, margin),
            p_equivalence_seeds=p_equivalence_beyond_seeds(d, margin, per_mean[k], noise),
            family=len(others),
            seed_variance=0.0 if np.isnan(noise.cautious) else noise.cautious * per_mean[k],
        )
        for k, d in enumerate(differences)
    ]


def _summary(table: PairedTable, index: int, half_width: float) -> ArmSummary:
    values = table.by_seed[index]
    centre = float(values.mean())
    return ArmSummary(
        arm=table.arms[index],
        seeds=len(values),
        mean=centre,
        mean_low=max(centre - half_width, 0.0),
        mean_high=min(centre + half_width, 1.0),
        sd_patients=_spread(values.mean(axis=0)),
        sd_seeds=_spread(values.mean(axis=1)),
    )


def _row(
    summary: ArmSummary,
    differences: FloatArray,
    half_width: float,
    p_wrong_sign: float,
    tests: _Tests,
    margin: float,
    level: float,
) -> ArmRow:
    diff, sd = float(differences.mean()), _spread(differences)
    # A p of NaN, where one seed leaves the luck of runs unknown, is in nobody's way.
    differs = max(tests.p_holm, tests.p_mean_holm) < level and not tests.p_seeds >= level
    within = tests.p_equivalence < level and not tests.p_equivalence_seeds >= level
    luck = tests.seed_variance
    return ArmRow(
        **vars(summary),
        diff=diff,
        ci_low=diff - half_width,
        ci_high=diff + half_width,
        sd_diff=sd,
        p=tests.p,
        p_holm=tests.p_holm,
        p_mean_holm=tests.p_mean_holm,
        p_seeds=tests.p_seeds,
        p_false_claim=p_wrong_sign,
        p_equivalence=tests.p_equivalence,
        p_equivalence_seeds=tests.p_equivalence_seeds,
        verdict=_verdict(diff, differs, within),
        # Holm's strictest step: what the arm must pass whatever the others do.
        patients_to_detect=power.patients_to_detect(diff, sd, level / tests.family, luck),
        patients_for_equivalence=power.patients_for_equivalence(diff, sd, margin, level, luck),
        wins=int(np.count_nonzero(differences > 0)),
        losses=int(np.count_nonzero(differences < 0)),
    )


def _verdict(diff: float, differs: bool, within_margin: bool) -> Verdict:
    if differs:
        return "better" if diff > 0 else "worse"
    return "equivalent" if within_margin else "undecided"


def _spread(values: FloatArray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

"""Rules that could decide a verdict, and how often each claims, finds and covers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

from seglab.evaluation.comparison import LEVEL, MARGIN
from seglab.evaluation.statistics import PairedTest, SeedVariance, paired_test, seed_variance
from tests.verdicts.simulate import Array, Setting, draw

RESAMPLES = 1_999
BATCH = 100


@dataclass(frozen=True)
class Data:
    """A batch of experiments as the rules need them; rows are experiments × other arms."""

    differences: Array
    """(rows, patients), seeds averaged."""
    per_mean: float
    seeds: SeedVariance
    rng: np.random.Generator

    @classmethod
    def of(cls, values: Array, rng: np.random.Generator) -> Data:
        """Average seeds of (experiments, arms, seeds, patients), and pool their variance."""
        arms, seeds, patients = values.shape[1:]
        means, pooled = values.mean(axis=2), seed_variance([values[:, a] for a in range(arms)])
        if pooled.degrees:
            parts = (np.repeat(part, arms - 1) for part in (pooled.mean_square, pooled.residual))
            pooled = SeedVariance(*parts, degrees=pooled.degrees)
        return cls((means[:, 1:] - means[:, :1]).reshape(-1, patients), 2 / seeds, pooled, rng)

    @property
    def parts(self) -> tuple[Array, Array]:
        """Squared error of the patients and of the seeds, (rows,) each."""
        of_patients = self.differences.var(axis=1, ddof=1) / self.differences.shape[1]
        if not self.seeds.degrees:
            return of_patients, np.zeros_like(of_patients)
        of_patients = np.maximum(of_patients - self.per_mean * self.seeds.residual, 0)
        return of_patients, self.per_mean * self.seeds.mean_square


@dataclass(frozen=True)
class Judged:
    """(rows,) of each; NaN where a rule has none."""

    p: Array
    half: Array | float = np.nan
    p_equivalence: Array | float = np.nan

    @classmethod
    def by(cls, test: PairedTest) -> Judged:
        """The figures of a test of the package's kind."""
        return cls(test.p, test.half_width(LEVEL), test.p_equivalence(MARGIN))


def package(data: Data) -> Judged:
    """What the package does."""
    return Judged.by(paired_test(data.differences, data.per_mean, data.seeds, data.rng, RESAMPLES))


def student(data: Data) -> Judged:
    """Student's t for the patients as well; with one seed the paired t-test."""
    of_patients, of_seeds = data.parts
    upper = 1 - np.arange(1, 10_000) / 20_000
    critical = special.stdtrit(data.differences.shape[1] - 1, upper) * of_patients[:, None]
    if data.seeds.degrees:
        critical += special.stdtrit(data.seeds.degrees, upper) * of_seeds[:, None]
    squared = of_patients + of_seeds
    diff = data.differences.mean(axis=1)
    return Judged.by(PairedTest(diff, np.sqrt(squared), critical / squared[:, None]))


def satterthwaite(data: Data) -> Judged:
    """The same error with Satterthwaite's degrees of freedom, as Hillis has it."""
    of_patients, of_seeds = data.parts
    squared, degrees = of_patients + of_seeds, data.differences.shape[1] - 1
    if data.seeds.degrees:
        parts = of_patients**2 / degrees + of_seeds**2 / data.seeds.degrees
        degrees = squared**2 / parts
    p = 2 * stats.t.sf(np.abs(data.differences.mean(axis=1)) / np.sqrt(squared), degrees)
    return Judged(p, stats.t.isf(LEVEL / 2, degrees) * np.sqrt(squared))


def component(data: Data) -> Judged:
    """Variance component of seeds, 0 where its estimate is negative; Cochran and Cox."""
    if not data.seeds.degrees:
        return student(data)
    rest = replace(data.seeds, mean_square=data.seeds.component, residual=0 * data.seeds.residual)
    return student(replace(data, seeds=rest))


def flips(data: Data) -> Judged:
    """Permutation of signs, seeds forgotten: 2,000 assignments, the observed one first."""
    signs = data.rng.integers(0, 2, (2_000, data.differences.shape[1])) * 2.0 - 1
    signs[0] = 1
    own = np.abs(data.differences.sum(axis=1, keepdims=True)) * (1 - 1e-12)
    return Judged(np.mean(np.abs(data.differences @ signs.T) >= own, axis=1))


def wilcoxon(data: Data) -> Judged:
    """Wilcoxon's signed-rank test, seeds forgotten."""
    return Judged(stats.wilcoxon(data.differences, axis=1).pvalue)


RULES: Mapping[str, Callable[[Data], Judged]] = {
    rule.__name__: rule for rule in (package, student, satterthwaite, component, flips, wilcoxon)
}
OF_ONE_SEED = ("package", "student", "flips", "wilcoxon")
"""Those that differ where there is one seed."""


@dataclass(frozen=True)
class Rates:
    """Shares of experiments; NaN where a rule has none."""

    any_claim: float
    """Some arm is called better or worse, Holm's correction over the arms."""
    found: float
    """The first arm after the baseline is called better by Bonferroni's step."""
    covered: float
    """The 95 % interval of an arm holds the true difference; mean over arms."""
    equivalent: float
    """An arm is called equivalent; mean over arms."""


def measure(
    setting: Setting, experiments: int, rules: Iterable[str] = RULES, seed: int = 0
) -> Mapping[str, Rates]:
    """Draw experiments and judge them by each rule."""
    rng = np.random.default_rng(seed)
    sums = {name: np.zeros(4) for name in rules}
    for _ in range(experiments // BATCH):
        data = Data.of(draw(rng, setting, BATCH), rng)
        for name in sums:
            sums[name] += _counts(RULES[name](data), data, setting) / experiments
    return {name: Rates(*total.tolist()) for name, total in sums.items()}


def _counts(judged: Judged, data: Data, setting: Setting) -> Array:
    others = setting.arms - 1
    diff = data.differences.mean(axis=1)
    # Holm's procedure rejects some arm exactly where the smallest p is small enough.
    passed = (judged.p * others < LEVEL + 1e-9).reshape(-1, others)
    held = np.where(np.isnan(judged.half), np.nan, np.abs(diff - setting.difference) <= judged.half)
    equivalent = np.where(np.isnan(judged.p_equivalence), np.nan, judged.p_equivalence <= LEVEL)
    return np.array(
        [
            passed.any(axis=1).sum(),
            (passed & (diff.reshape(-1, others) > 0))[:, 0].sum(),
            held.sum() / others,
            equivalent.sum() / others,
        ]
    )

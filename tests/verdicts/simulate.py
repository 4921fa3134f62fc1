"""Experiments whose truth is known, and how often :func:`compare_arms` gets it right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from seglab.evaluation.arms import ArmScores
from seglab.evaluation.comparison import Comparison, compare_arms

Draw = Callable[[np.random.Generator, "Setting"], np.ndarray]
PATIENTS = 55
MARGIN = 0.01


@dataclass(frozen=True)
class Setting:
    """The size of an experiment, and what a seed alone does to a mean Dice."""

    arms: int = 2
    seeds: int = 1
    patients: int = PATIENTS
    sd_run: float = 0.0
    noise: float = 0.25
    """Share of the variance of paired differences that is the noise of single runs."""


def scores(values: np.ndarray) -> list[ArmScores]:
    """Name (arms, seeds, patients) of Dice; the first arm, ``a0``, is the baseline."""
    patients = tuple(f"p{i}" for i in range(values.shape[2]))
    seeds = tuple(range(values.shape[1]))
    return [ArmScores(f"a{i}", seeds, patients, of_arm) for i, of_arm in enumerate(values)]


def compare(values: np.ndarray, resamples: int = 1_000) -> Comparison:
    """Judge (arms, seeds, patients) of Dice."""
    return compare_arms(scores(values), "a0", margin=MARGIN, resamples=resamples)


def equal_arms(rng: np.random.Generator, setting: Setting) -> np.ndarray:
    """Dice (arms, seeds, patients) of arms that are equal in expectation.

    Patients differ in difficulty (mean Dice 0.87, SD 0.12, one in twenty much harder), the
    same for all arms; an arm suits some patients better than others, with heavy tails; every
    run has its own noise a patient, and luck that moves all of its patients. Differences of
    the logits have an SD of 0.37, those of Dice one of 0.04 to 0.05.
    """
    arms, seeds, patients = setting.arms, setting.seeds, setting.patients
    difficulty = rng.normal(2.2, 0.9, patients) - 2.0 * (rng.random(patients) < 0.05)
    sd_arm, sd_noise = 0.37 * np.sqrt([(1 - setting.noise) / 2, setting.noise * seeds / 2])
    of_arm = sd_arm * rng.standard_t(4, (arms, 1, patients)) / math.sqrt(2)
    of_run = rng.normal(0, setting.sd_run, (arms, seeds, 1))
    noise = sd_noise * rng.normal(size=(arms, seeds, patients))
    return 1 / (1 + np.exp(-(difficulty + of_arm + noise))) + of_run


def skewed_arms(rng: np.random.Generator, setting: Setting) -> np.ndarray:
    """Dice (arms, 1, patients) of equal means; each arm gains much on few and loses on many."""
    arms, patients = setting.arms, setting.patients
    gains = 0.04 * (rng.exponential(size=(arms, patients)) - 1)
    gains[0] = 0.03 * (1 - rng.exponential(size=patients))
    return (0.75 + gains)[:, None]


def planted(
    rng: np.random.Generator, setting: Setting, difference: float, sd: float, tails: str
) -> np.ndarray:
    """Dice (2, seeds, patients) whose seed-averaged differences have this mean and SD."""
    seeds, patients = setting.seeds, setting.patients
    base = rng.beta(8, 2, patients)
    shape = {
        "normal": rng.normal(size=patients),
        "heavy": rng.laplace(size=patients) / math.sqrt(2),
        "skewed": rng.exponential(size=patients) - 1,
    }[tails]
    noise = rng.normal(size=(2, seeds, patients)) * sd * math.sqrt(setting.noise * seeds / 2)
    of_run = rng.normal(0, setting.sd_run, (2, seeds, 1))
    arms = np.stack([base, base + difference + sd * math.sqrt(1 - setting.noise) * shape])
    return arms[:, None] + noise + of_run


def rows_of(values: np.ndarray) -> Sequence[str]:
    """The verdicts on all arms but the baseline."""
    return [row.verdict for row in compare(values).rows]


def false_claims(
    setting: Setting, experiments: int, seed: int = 0, draw: Draw = equal_arms
) -> float:
    """Share of experiments with equal arms in which any is called better or worse."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(experiments):
        wrong += bool({"better", "worse"} & set(rows_of(draw(rng, setting))))
    return wrong / experiments


def false_equivalence(setting: Setting, experiments: int, seed: int = 0) -> float:
    """Share in which an arm whose difference is exactly the margin is called equivalent."""
    rng = np.random.default_rng(seed)
    found = (rows_of(planted(rng, setting, MARGIN, 0.02, "normal")) for _ in range(experiments))
    return sum("equivalent" in verdicts for verdicts in found) / experiments


@dataclass(frozen=True)
class Found:
    """What became of a planted difference."""

    power: float
    """Share of experiments in which it was found, with its sign."""
    theory: float
    coverage: float
    """Share of experiments whose interval holds the true difference."""


def find_planted(
    setting: Setting,
    experiments: int,
    *,
    difference: float = 0.02,
    sd: float = 0.05,
    tails: str = "normal",
    seed: int = 0,
) -> Found:
    """Plant a difference and look for it."""
    rng = np.random.default_rng(seed)
    found, covered = 0, 0
    for _ in range(experiments):
        (row,) = compare(planted(rng, setting, difference, sd, tails)).rows
        found += row.verdict == "better"
        covered += row.ci_low <= difference <= row.ci_high
    theory = paired_power(setting, difference, sd)
    return Found(found / experiments, theory, covered / experiments)


def paired_power(setting: Setting, difference: float, sd: float, level: float = 0.05) -> float:
    """Power of the two-sided paired t-test, by the noncentral t distribution."""
    variance = sd**2 / setting.patients + 2 * setting.sd_run**2 / setting.seeds
    degrees, shift = setting.patients - 1, difference / math.sqrt(variance)
    critical = stats.t.isf(level / 2, degrees)
    theory = stats.nct.sf(critical, degrees, shift) + stats.nct.cdf(-critical, degrees, shift)
    return float(theory)

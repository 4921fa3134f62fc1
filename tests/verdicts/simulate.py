"""Experiments whose truth is known: Dice of arms, seeds and patients, many experiments at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = Literal["dice", "normal", "heavy", "skewed"]
SD = 0.05
"""Of paired differences, seeds averaged, over patients."""


@dataclass(frozen=True)
class Setting:
    """The size of an experiment, and what moves its scores beside the arm."""

    arms: int = 2
    seeds: int = 1
    patients: int = 55
    # Of the differences of patients. ``dice``: differences of logits with heavy tails, of
    # patients who differ in difficulty; others: normal, Laplace, exponential (skewed).
    shape: Shape = "dice"
    sd_run: float = 0.0  # what seeds do to the mean Dice of a run
    noise: float = 0.25  # share of the variance of differences that is the noise of single runs
    difference: float = 0.0  # of every arm to the baseline
    epochs: int = 1  # the best of so many, each with noise of its own, is kept
    rates: int = 1  # the best of so many learning rates, by one run each, is trained
    # Spread of the true mean Dice over learning rates, the same for every arm; beside it every
    # rate suits some patients better, with an SD of 0.02.
    sd_rate: float = 0.0
    sd: float = SD


def draw(rng: np.random.Generator, setting: Setting, experiments: int) -> Array:
    """Dice (experiments, arms, seeds, patients); the first arm is the baseline."""
    size = (experiments, setting.arms, setting.patients)
    expected, slope = _arms(rng, setting, size)
    expected[:, 1:] += setting.difference
    if setting.rates > 1:
        expected += _chosen_rate(rng, setting, expected, slope)
    return _runs(rng, setting, expected[:, :, None], slope[:, :, None], setting.seeds)


def _arms(
    rng: np.random.Generator, setting: Setting, size: tuple[int, int, int]
) -> tuple[Array, Array]:
    """Expected Dice (experiments, arms, patients), and what a unit of noise changes it by."""
    experiments, _, patients = size
    sd_arm = math.sqrt((1 - setting.noise) / 2)
    if setting.shape == "dice":
        difficulty = rng.normal(2.2, 0.9, (experiments, 1, patients))
        difficulty -= 2.0 * (rng.random((experiments, 1, patients)) < 0.05)
        # An SD of 0.37 in differences of the logit is one of 0.04 to 0.05 in those of Dice.
        logit = difficulty + 0.37 * sd_arm * rng.standard_t(4, size) / math.sqrt(2)
        expected = 1 / (1 + np.exp(-logit))
        return expected, 0.37 * expected * (1 - expected)
    base = rng.beta(8, 2, (experiments, 1, patients))
    if setting.shape == "skewed":
        # An arm gains much on few patients; the baseline loses much on few.
        of_arm = 0.8 * (rng.exponential(size=size) - 1)
        of_arm[:, 0] *= -0.75
        of_arm *= math.sqrt(1 - setting.noise)
    elif setting.shape == "heavy":
        of_arm = sd_arm * rng.laplace(size=size) / math.sqrt(2)
    else:
        of_arm = sd_arm * rng.normal(size=size)
    return base + setting.sd * of_arm, np.full(size, setting.sd)


def _chosen_rate(
    rng: np.random.Generator, setting: Setting, expected: Array, slope: Array
) -> Array:
    """What the learning rate that tuning chose changes: (experiments, arms, patients)."""
    experiments, arms, patients = expected.shape
    of_rate = setting.sd_rate * rng.normal(size=(experiments, 1, setting.rates, 1))
    of_rate = of_rate + 0.02 * rng.normal(size=(experiments, arms, setting.rates, patients))
    tried = expected[:, :, None] + of_rate
    scores = np.concatenate(
        [_runs(rng, setting, tried[:, :, [k]], slope[:, :, None], 1) for k in range(setting.rates)],
        axis=2,
    )
    best = scores.mean(axis=-1).argmax(axis=-1)
    return np.take_along_axis(of_rate, best[:, :, None, None], axis=2)[:, :, 0]


def _runs(
    rng: np.random.Generator, setting: Setting, expected: Array, slope: Array, seeds: int
) -> Array:
    """Runs (experiments, arms, seeds, patients), each at its best epoch on these patients."""
    experiments, arms, _, patients = expected.shape
    sd_noise = math.sqrt(setting.noise * setting.seeds / 2)
    best = np.empty((experiments, arms, seeds, patients))
    highest = np.full((experiments, arms, seeds, 1), -np.inf)
    for _ in range(setting.epochs):
        scores = expected + slope * sd_noise * rng.normal(size=best.shape)
        scores += rng.normal(0, setting.sd_run, highest.shape)
        mean = scores.mean(axis=-1, keepdims=True)
        best = np.where(mean > highest, scores, best)
        highest = np.maximum(highest, mean)
    return best

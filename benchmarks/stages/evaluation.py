"""Scores of a patient, and the statistics of a report."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.material import Material
from benchmarks.references.monai_metrics import monai_scores
from benchmarks.references.monai_training import require_monai
from benchmarks.references.scipy_report import report_by_loop
from benchmarks.stage import Goal, Measurement, compare_rates, stage
from benchmarks.timing import in_turn
from seglab.evaluation.comparison import ArmScores, compare_arms
from seglab.evaluation.metrics import score_patient

SPACING_MM = (1.0, 1.0, 1.0)
Masks = NDArray[np.bool_]


SCORED_PATIENTS = 3


@stage("validation", "evaluation", "patients/s", goal=Goal(5))
def validation(material: Material) -> Measurement:
    """Every score of a patient, against MONAI's Dice, HD95 and surface Dice of the same masks."""
    require_monai()
    pairs = _pairs(material)
    for prediction, truth in pairs:
        check_equal(prediction, truth)
    contestants = {"ours": partial(_score_all, pairs), "theirs": partial(_monai_all, pairs)}
    seconds = in_turn(contestants, material.scale.rounds)
    return compare_rates(len(pairs), seconds["ours"], seconds["theirs"])


@stage("report", "evaluation", "reports/s", goal=Goal(20))
def report(material: Material) -> Measurement:
    """Intervals and tests of an ablation, against scipy.stats.bootstrap and wilcoxon in a loop."""
    arms, resamples = _arms(material), material.scale.resamples
    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: compare_arms(arms, arms[0].arm, resamples=resamples),
        "theirs": lambda: report_by_loop([arm.values[0] for arm in arms], resamples),
    }
    contestants["ours"]()  # imports
    seconds = in_turn(contestants, rounds=2, warm_up=False)  # the loop takes seconds, and many
    return compare_rates(1, seconds["ours"], seconds["theirs"])


def check_equal(prediction: Masks, truth: Masks) -> None:
    """Raise ArithmeticError where our scores are not MONAI's within 1e-6."""
    ours = score_patient("x", prediction, truth, SPACING_MM, contiguous=True)
    theirs = monai_scores(prediction, truth, SPACING_MM)
    for name, value in theirs.items():
        if not math.isclose(getattr(ours, name), value, rel_tol=1e-6, abs_tol=1e-6):
            raise ArithmeticError(f"{name} is {getattr(ours, name)}, MONAI's {value}")


def _pairs(material: Material) -> list[tuple[Masks, Masks]]:
    """Masks of some patients, and the same with their edges and slices shifted."""
    source = material.volumes
    pairs = []
    for patient in source.patients()[:SCORED_PATIENTS]:
        truth = source.read(patient).labels > 0
        prediction = np.roll(truth, (1, 2, -2), axis=(0, 1, 2)) | np.roll(truth, 3, axis=1)
        pairs.append((prediction, truth))
    return [pair for pair in pairs if pair[1].any()]


def _score_all(pairs: list[tuple[Masks, Masks]]) -> None:
    for prediction, truth in pairs:
        score_patient("x", prediction, truth, SPACING_MM, contiguous=True)


def _monai_all(pairs: list[tuple[Masks, Masks]]) -> None:
    for prediction, truth in pairs:
        monai_scores(prediction, truth, SPACING_MM)


def _arms(material: Material) -> list[ArmScores]:
    """Dice as arms of an ablation have it: patients differ more than arms."""
    stream, scale = np.random.default_rng(0), material.scale
    difficulty = stream.normal(2.0, 0.8, scale.cohort)
    patients = tuple(f"p{i}" for i in range(scale.cohort))
    found = []
    for number in range(scale.arms):
        logit = difficulty + stream.normal(0.02 * number, 0.3, scale.cohort)
        dice = 1 / (1 + np.exp(-logit))
        found.append(ArmScores(f"arm {number}", (0,), patients, dice[None]))
    return found

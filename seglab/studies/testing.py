"""Scores of the opened test patients: frozen setting, plain 0.5, and beside a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from seglab.core.progress import progress
from seglab.evaluation.arms import ArmScores
from seglab.evaluation.calibration import (
    Reliability,
    SliceDice,
    pooled_reliability,
    reliability,
    slice_dice,
)
from seglab.evaluation.comparison import Comparison, compare_arms
from seglab.evaluation.intervals import Interval, interval, intervals
from seglab.evaluation.metrics import PatientScore, score_patient
from seglab.evaluation.strata import SIZES, stratify
from seglab.learning.operating_point import PLAIN, with_mirror
from seglab.learning.postprocess import OperatingPoint
from seglab.studies.rebuild import TrainedRun

PROMOTED, BASELINE = "promoted", "baseline"


@dataclass(frozen=True)
class ScoredPatient:
    """One patient, predicted once."""

    frozen: PatientScore
    plain: PatientScore
    reliability: Reliability
    slices: SliceDice


@dataclass(frozen=True)
class Stratum:
    """Patients of like tumour size."""

    name: str
    smallest: float
    largest: float
    """Tumour in native pixels."""
    dice: Interval


@dataclass(frozen=True)
class SealedResults:
    """All that the opened test says."""

    patients: Sequence[ScoredPatient]
    baseline: Sequence[PatientScore] | None
    """Under the baseline's own operating point, frozen on validation like the promoted one's."""

    @property
    def scores(self) -> list[PatientScore]:
        """At the frozen setting."""
        return [patient.frozen for patient in self.patients]

    @property
    def plain_scores(self) -> list[PatientScore]:
        """At the plain 0.5 threshold."""
        return [patient.plain for patient in self.patients]

    @cached_property
    def frozen(self) -> dict[str, Interval]:
        """Every figure at the frozen setting."""
        return intervals(self.scores)

    @cached_property
    def plain(self) -> dict[str, Interval]:
        """Every figure at the plain 0.5 threshold."""
        return intervals(self.plain_scores)

    @cached_property
    def reliability(self) -> Reliability:
        """Calibration over all patients' brains."""
        return pooled_reliability([patient.reliability for patient in self.patients])

    @cached_property
    def strata(self) -> list[Stratum]:
        """Thirds by tumour size; those that nobody is in are left out."""
        scores = self.scores
        names = stratify([score.truth_px for score in scores])
        found = []
        for size in SIZES:
            here = [s for s, name in zip(scores, names, strict=True) if name == size]
            if here:
                pixels = [s.truth_px for s in here]
                dice = interval([(s.dice, 1.0) for s in here], 1.0)
                found.append(Stratum(size, min(pixels), max(pixels), dice))
        return found

    @cached_property
    def against_baseline(self) -> Comparison | None:
        """Paired comparison of the promoted run with the baseline; None without one."""
        if self.baseline is None:
            return None
        arms = [_arm(BASELINE, self.baseline), _arm(PROMOTED, self.scores)]
        return compare_arms(arms, BASELINE)


def evaluate_test(
    trained: TrainedRun, point: OperatingPoint, names: Sequence[str]
) -> list[ScoredPatient]:
    """Predict and score the opened patients."""
    return [_test_patient(trained, point, name) for name in progress(names, "test", unit="patient")]


def evaluate_baseline(
    trained: TrainedRun, point: OperatingPoint, names: Sequence[str]
) -> list[PatientScore]:
    """Predict and score the opened patients under the baseline run."""
    return [patient.frozen for patient in evaluate_test(trained, point, names)]


def _test_patient(trained: TrainedRun, point: OperatingPoint, name: str) -> ScoredPatient:
    cache = trained.data.cache
    patient = cache.by_id[name]
    truth, indices = cache.native_mask(patient), patient.slice_indices
    direct = trained.predictor.native(cache, patient)
    probability = direct
    if point.mirror:
        mirrored = with_mirror(trained.predictor, cache.mirror_axis, mirror=True)
        probability = mirrored.native(cache, patient)

    def score(mask: NDArray[np.bool_]) -> PatientScore:
        return score_patient(
            name, mask, truth, patient.spacing_mm, patient.contiguous, patient.grade
        )

    mask = point.apply(probability, indices)
    frozen = score(mask)
    return ScoredPatient(
        frozen=frozen,
        plain=frozen if point == PLAIN else score(PLAIN.apply(direct, indices)),
        reliability=reliability(probability, truth, cache.native_image(patient) > 0),
        slices=slice_dice(mask, truth, indices, patient.stack_size),
    )


def _arm(name: str, scores: Sequence[PatientScore]) -> ArmScores:
    values = np.array([[score.dice for score in scores]])
    return ArmScores(name, (0,), tuple(score.patient_id for score in scores), values)

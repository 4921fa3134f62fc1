"""Scores of the opened test patients: frozen setting, plain 0.5, and beside a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from seglab.core.progress import progress
from seglab.evaluation.calibration import (
    Reliability,
    SliceDice,
    pooled_reliability,
    reliability,
    slice_dice,
)
from seglab.evaluation.case import Case
from seglab.evaluation.comparison import ArmScores, Comparison, compare_arms
from seglab.evaluation.failures.explain import Explanation, explain
from seglab.evaluation.metrics import PatientScore, score_patient
from seglab.evaluation.scores import SIZES, Interval, interval, intervals, stratify
from seglab.learning.operating_point import PLAIN, OperatingPoint
from seglab.studies.resolve import TrainedRun

Float32 = NDArray[np.float32]

PROMOTED, BASELINE = "promoted", "baseline"


@dataclass(frozen=True)
class ScoredPatient:
    """One patient, predicted once."""

    frozen: PatientScore
    plain: PatientScore
    explanation: Explanation
    """Why the frozen setting loses what it loses."""
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


@dataclass(frozen=True)
class FrozenRun:
    """A trained run at the operating point that validation chose for it."""

    trained: TrainedRun
    point: OperatingPoint

    def probabilities(self, name: str) -> tuple[Float32, Float32]:
        """Predict (S, H, W): as the operating point asks, and without mirroring."""
        cache, predictor = self.trained.data.cache, self.trained.predictor
        patient = cache.by_id[name]
        direct = predictor.native(cache, patient)
        if not self.point.mirror:
            return direct, direct
        return predictor.mirrored(cache.mirror_axis).native(cache, patient), direct

    def score(self, name: str, mask: NDArray[np.bool_]) -> PatientScore:
        """Score a mask (S, H, W) of a patient."""
        cache = self.trained.data.cache
        patient = cache.by_id[name]
        truth = cache.native_mask(patient)
        return score_patient(
            name, mask, truth, patient.spacing_mm, patient.contiguous, patient.grade
        )

    def case(self, name: str, probability: Float32 | None = None) -> Case:
        """Keep all that a picture or an explanation of a patient needs."""
        cache = self.trained.data.cache
        patient = cache.by_id[name]
        if probability is None:
            probability, _ = self.probabilities(name)
        mask = self.point.apply(probability, patient.slice_indices)
        return Case(
            patient_id=name,
            image=cache.native_image(patient),
            truth=cache.native_mask(patient),
            probability=np.rint(probability * 255).astype(np.uint8),
            prediction=mask.astype(np.uint8),
            slice_indices=patient.slice_indices,
            spacing_mm=patient.spacing_mm,
            upright=cache.upright,
            score=self.score(name, mask),
        )


def evaluate_test(frozen: FrozenRun, names: Sequence[str]) -> list[ScoredPatient]:
    """Predict, score and explain the opened patients."""
    bar = progress(names, "test", unit="patient")
    return [_evaluate_patient(frozen, name) for name in bar]


def evaluate_baseline(frozen: FrozenRun, names: Sequence[str]) -> list[PatientScore]:
    """Predict and score the opened patients under the baseline run."""
    cache = frozen.trained.data.cache
    scores = []
    for name in progress(names, "baseline", unit="patient"):
        probability, _ = frozen.probabilities(name)
        mask = frozen.point.apply(probability, cache.by_id[name].slice_indices)
        scores.append(frozen.score(name, mask))
    return scores


def _evaluate_patient(frozen: FrozenRun, name: str) -> ScoredPatient:
    patient = frozen.trained.data.cache.by_id[name]
    probability, direct = frozen.probabilities(name)
    case = frozen.case(name, probability)
    is_plain = frozen.point == PLAIN
    plain = PLAIN.apply(direct, patient.slice_indices)
    return ScoredPatient(
        frozen=case.score,
        plain=case.score if is_plain else frozen.score(name, plain),
        explanation=explain(case),
        reliability=reliability(probability, case.truth, case.image > 0),
        slices=slice_dice(case.prediction, case.truth, patient.slice_indices, patient.stack_size),
    )


def _arm(name: str, scores: Sequence[PatientScore]) -> ArmScores:
    values = np.array([[score.dice for score in scores]])
    return ArmScores(name, (0,), tuple(score.patient_id for score in scores), values)

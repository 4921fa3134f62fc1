"""The sealed test: the only way to the test patients, the record of it, and their scores.

Everywhere else the cache of a run is sealed (:mod:`seglab.data.sealed`). ``open_test`` is the one
function that hands out the test patients' names and the way to their pixels. The record is kept
outside of the promotion's run and experiment (:mod:`seglab.tracking.openings`), and is written
before anything is handed out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.documents import finite
from seglab.core.errors import UserError
from seglab.data.cache import CachedPatient, open_cache
from seglab.data.sealed import SealBroken
from seglab.evaluation.comparison import ArmScores, Comparison, compare_arms
from seglab.evaluation.failures import Explanation, explain
from seglab.evaluation.metrics import Case, PatientScore
from seglab.evaluation.scores import (
    CAVEAT,
    PUBLISHED,
    SIZES,
    Interval,
    calibration,
    in_question,
    interval,
    intervals,
    reliability,
    slice_dice,
    stratify,
    summarise,
)
from seglab.learning.inference import build_case, score
from seglab.learning.operating_point import PLAIN, OperatingPoint, Selection
from seglab.studies.data import StudyData
from seglab.studies.resolve import TrainedRun
from seglab.tracking import RunLog, Store, tags
from seglab.tracking.openings import Opening, openings, record_opening

PROMOTED, BASELINE = "promoted", "baseline"
_HASH_DIGITS, _PATIENT_DIGITS = 16, 8


@dataclass(frozen=True)
class OpenedTest:
    """The test part, opened and on record."""

    patients: tuple[str, ...]
    test_hash: str
    confirmatory: bool
    """Whether no result of these patients had been seen before."""
    openings_before: int
    """Of this very test part."""
    seen_before: int
    """Patients of it who were in a test that was opened before."""

    def unseal(self, data: StudyData) -> StudyData:
        """Return the data of a run with the opened patients in reach.

        Raises:
            SealBroken: its test patients are others than those that were opened.
        """
        if _digest(_test_patients(data))[:_HASH_DIGITS] != self.test_hash:
            raise SealBroken(f"split {data.split.hash} has another test part than was opened")
        sealed = data.cache
        opened = open_cache(sealed.path, sealed.modalities, sealed.target, sealed.require)
        return replace(data, cache=opened)


def check_sealed(
    store: Store, data: StudyData, reopen: str | None, own: str = ""
) -> Sequence[Opening]:
    """Refuse early, before any work, what :func:`open_test` would refuse.

    Returns the openings of this test part by other promotions than ``own``, oldest first.
    """
    test_hash = _digest(_test_patients(data))[:_HASH_DIGITS]
    if reopen is not None and not reopen.strip():
        raise UserError("--reopen needs a reason that a reader will accept")
    found = openings(store)
    before = [one for one in found if one.test_hash == test_hash and one.opened_by != own]
    if before and reopen is None:
        raise UserError(
            f"the test part of split {data.split.hash} was opened at {before[0].opened_at} by "
            f'promotion {before[0].opened_by}; --reopen "reason" opens it again, and the result '
            "then confirms nothing"
        )
    return before


def open_test(store: Store, log: RunLog, data: StudyData, reopen: str | None) -> OpenedTest:
    """Open the test for the promotion ``log``, once; put on record before it is handed out.

    The seal is of the patients, their slices and their truth: other settings of the
    cache, another fold or another source of the same volumes do not renew it. Another test
    part may be opened beside it; where the two share patients, it confirms nothing either.

    Args:
        store: where the record is.
        log: the open promotion run; one that opened the test and died keeps its opening.
        data: whose split it is.
        reopen: the reason, where the test was opened before.

    Raises:
        UserError: it was opened before and no reason is given, another promotion opens it
            now, or there is no test part, or no tumour in it.
    """
    before = check_sealed(store, data, reopen, log.run_id)
    patients = _test_patients(data)
    test_hash = _digest(patients)[:_HASH_DIGITS]
    digests = {_digest([patient])[:_PATIENT_DIGITS] for patient in patients}
    if not any(one.opened_by == log.run_id for one in openings(store)):
        record_opening(store, test_hash, log.run_id, digests, reopen, len(before))
    # Read again: another promotion may have opened them at the same time.
    others = [one.patients for one in openings(store) if one.opened_by != log.run_id]
    # An opening of this very test showed all of them, also one that is on record without names.
    seen = len(digests if before else digests & frozenset().union(*others))
    log.tags({tags.TEST_HASH: test_hash, tags.REOPEN_REASON: reopen})
    log.tags({tags.CONFIRMATORY: str(not seen).lower()})
    return OpenedTest(data.split.test, test_hash, not seen, len(before), seen)


def _test_patients(data: StudyData) -> list[CachedPatient]:
    """Those on whom a Dice can be measured.

    Raises:
        UserError: there is no test part, or no tumour in it.
    """
    if not data.split.test:
        raise UserError("split.fractions has no test share: there is nothing to promote on")
    by_id = {patient.patient_id: patient for patient in data.cache.patients}
    patients = [by_id[name] for name in data.split.test]
    if not any(patient.tumour_px.any() for patient in patients):
        raise UserError(
            f"none of the {len(patients)} test patients has tumour: no Dice can be measured; "
            "another split.seed or more patients would have one"
        )
    return patients


def _digest(patients: Sequence[CachedPatient]) -> str:
    """Hash of patients, their slices and their truth."""
    content = [
        [
            patient.patient_id,
            list(patient.native_shape),
            patient.slice_indices.tolist(),
            patient.whole_px.tolist(),
        ]
        for patient in patients
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class FrozenRun:
    """A trained run at the operating point that validation selected for it."""

    trained: TrainedRun
    selection: Selection

    @property
    def point(self) -> OperatingPoint:
        """What is frozen."""
        return self.selection.point

    def case(self, name: str) -> Case:
        """Predict a patient; keep all that a picture or an explanation needs."""
        return self._predict(name)[0]

    def evaluate(self, name: str) -> ScoredPatient:
        """Predict, score and explain an opened patient."""
        case, frozen, direct = self._predict(name)
        cache, order = self.trained.data.cache, case.slice_indices
        patient = cache.by_id[name]
        return ScoredPatient(
            frozen=case.score,
            plain=score(cache, patient, PLAIN.apply(direct, order)),
            explanation=explain(case),
            reliability=reliability(
                frozen, case.truth, in_question(case.image > 0, case.truth, case.prediction)
            ),
            slices=slice_dice(case.prediction, case.truth, order, patient.stack_size),
        )

    def _predict(self, name: str) -> tuple[Case, NDArray[np.float32], NDArray[np.float32]]:
        """Predict a patient; also probabilities (S, H, W) as frozen, and without mirroring."""
        cache, predictor = self.trained.data.cache, self.trained.predictor
        patient = cache.by_id[name]
        frozen = direct = predictor.native(cache, patient)
        if self.point.mirror:
            frozen = predictor.mirrored(cache.mirror_axis).native(cache, patient)
        mask = self.point.apply(frozen, patient.slice_indices)
        return build_case(cache, patient, frozen, mask), frozen, direct


@dataclass(frozen=True)
class ScoredPatient:
    """One patient, predicted once."""

    frozen: PatientScore
    plain: PatientScore
    explanation: Explanation
    """Why the frozen setting loses what it loses."""
    reliability: NDArray[np.float64]
    slices: NDArray[np.float64]


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
    def reliability(self) -> NDArray[np.float64]:
        """Pixels in question of all patients by probability, for :func:`calibration`."""
        pooled: NDArray[np.float64] = np.sum([one.reliability for one in self.patients], axis=0)
        return pooled

    @cached_property
    def strata(self) -> list[Stratum]:
        """Thirds by tumour size; empty ones are left out."""
        sizes = stratify([score.truth_px for score in self.scores])
        found = []
        for size in SIZES:
            here = [s for s, name in zip(self.scores, sizes, strict=True) if name == size]
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
        names = tuple(score.patient_id for score in self.scores)
        arms = [
            ArmScores(arm, (0,), names, np.array([[score.dice for score in scores]]))
            for arm, scores in ((BASELINE, self.baseline), (PROMOTED, self.scores))
        ]
        return compare_arms(arms, BASELINE)

    def metrics(self) -> dict[str, float]:
        """As the promotion run has them: the names of training under ``test/``, with intervals."""
        found = {f"test/{name}": value for name, value in summarise(self.scores).items()}
        for prefix, figures in (("test", self.frozen), ("test_plain", self.plain)):
            for name, figure in figures.items():
                key = f"{prefix}/{name}"
                found |= {key: figure.value, f"{key}_ci_low": figure.low}
                found[f"{key}_ci_high"] = figure.high
        found["test/calibration_error"] = calibration(self.reliability)[2]
        if self.baseline is not None:
            summary = summarise(self.baseline)
            found |= {f"test_baseline/{name}": summary[name] for name in ("dice", "iou")}
        for row in self.against_baseline.rows if self.against_baseline else ():
            for name in ("diff", "ci_low", "ci_high", "p", "p_wilcoxon"):
                found[f"test_vs_baseline/{name}"] = float(getattr(row, name))
        return found

    def to_json(self, opened: OpenedTest) -> dict[str, Any]:
        """As the artifact ``test_results.json`` holds it, with None for what is not finite."""
        comparison = self.against_baseline
        content = {
            "confirmatory": opened.confirmatory,
            "openings_before": opened.openings_before,
            "patients_seen_before": opened.seen_before,
            "patients": len(self.patients),
            "frozen": {name: vars(figure) for name, figure in self.frozen.items()},
            "plain": {name: vars(figure) for name, figure in self.plain.items()},
            "strata": [{**vars(s), "dice": vars(s.dice)} for s in self.strata],
            "calibration_error": calibration(self.reliability)[2],
            "against_baseline": vars(comparison.rows[0]) if comparison else None,
            "published": [vars(one) for one in PUBLISHED],
            "caveat": CAVEAT,
        }
        return dict(finite(content))

"""One patient's failure explained: evidence, cause, and what each cause cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seglab.evaluation.case import Case
from seglab.evaluation.failures.causes import Cause, patient_cause, region_cause
from seglab.evaluation.failures.evidence import (
    PatientEvidence,
    RegionEvidence,
    Tissue,
    margin,
    measure_patient,
    measure_region,
)
from seglab.evaluation.failures.intensity import IntensityRange
from seglab.evaluation.failures.regions import Partition, divide
from seglab.evaluation.failures.space import Box, Space, bounding_box, widen
from seglab.evaluation.metrics import PatientScore


@dataclass(frozen=True)
class Finding:
    """One wrong region with its cause."""

    evidence: RegionEvidence
    cause: Cause
    lost_dice: float
    """What it cost the patient; 0 where the patient has no Dice."""


@dataclass(frozen=True)
class Explanation:
    """A patient, what went wrong, and why."""

    score: PatientScore
    evidence: PatientEvidence
    findings: tuple[Finding, ...]
    """Costliest first."""
    shares: Mapping[Cause, float]
    """Share of the wrong voxels each cause explains; adds up to 1, or empty if none is wrong."""
    cause: Cause | None
    """The cause to name first; None where nothing is wrong."""

    @property
    def patient_id(self) -> str:
        """Name of the patient."""
        return self.score.patient_id

    @property
    def lost_dice(self) -> float:
        """1 - Dice; 0 where the patient has no Dice."""
        return 1 - self.score.dice if np.isfinite(self.score.dice) else 0.0


def explain(case: Case, training_range: IntensityRange | None = None) -> Explanation:
    """Explain what went wrong in one patient.

    Args:
        case: the patient on the native grid.
        training_range: from the training patients' images; without it no failure is put
            down to intensity.
    """
    truth, prediction = case.truth != 0, case.prediction != 0
    space = Space.of(case)
    tissue = Tissue.of(case, space)
    marked = truth | prediction
    whole: Box = (slice(None), slice(None), slice(None))
    box = bounding_box(marked, margin(space)) if marked.any() else whole
    partition = divide(truth[box], prediction[box], space)
    doubted = "inconsistent slices" in partition.kinds
    patient = measure_patient(case, tissue, partition.lesions, doubted, training_range)
    regions = _measure_regions(tissue.cut(box), partition)
    return _conclude(case.score, patient, regions)


def _measure_regions(tissue: Tissue, partition: Partition) -> list[RegionEvidence]:
    from scipy.ndimage import find_objects

    wrong = int(np.count_nonzero(partition.labels))
    rim = margin(tissue.space)
    regions = []
    boxes = find_objects(partition.labels)
    for number, (kind, box) in enumerate(zip(partition.kinds, boxes, strict=True), start=1):
        wider = widen(box, rim)
        mask = partition.labels[wider] == number
        regions.append(measure_region(tissue.cut(wider), mask, partition.reach[wider], kind, wrong))
    return regions


def _conclude(
    score: PatientScore, patient: PatientEvidence, regions: Sequence[RegionEvidence]
) -> Explanation:
    lost = 1 - score.dice if np.isfinite(score.dice) else 0.0
    findings = [
        Finding(region, region_cause(region, patient), lost * region.share)
        for region in sorted(regions, key=lambda region: -region.voxels)
    ]
    shares: dict[Cause, float] = {}
    for finding in findings:
        shares[finding.cause] = shares.get(finding.cause, 0.0) + finding.evidence.share
    cause = patient_cause(shares, patient) if shares else None
    return Explanation(score, patient, tuple(findings), shares, cause)

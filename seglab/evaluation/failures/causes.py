"""From evidence to a cause, by rules that can be read and disputed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from seglab.evaluation.failures.evidence import PatientEvidence, RegionEvidence
from seglab.evaluation.failures.regions import SMALL_LESION


class Cause(StrEnum):
    """Why a region is wrong, as far as it can be measured."""

    TRUTH = "inconsistent truth"
    INTENSITY = "intensity outside the training range"
    SMALL = "small lesion"
    LOW_CONTRAST = "low contrast"
    DISTRACTOR = "artefact or bright distractor"
    STACK_ENDS = "first or last slices"
    COMPONENTS = "several components"
    BOUNDARY = "boundary within 2 mm"
    UNEXPLAINED = "unexplained"


RULES: Final[Mapping[Cause, str]] = {
    Cause.TRUTH: "The truth of neighbouring slices does not line up (overlap below 75 %, 50 % for "
    "thick slices) where the prediction does, or a slice between two is empty.",
    Cause.INTENSITY: "The brain's grey levels lie two standard deviations from those of the "
    "training patients, on average over seven quantiles; takes every wrong region but the "
    "boundary.",
    Cause.SMALL: "A lesion below 1 ml was missed or outlined poorly. Where the whole tumour is "
    "below 1 ml it is named first: each wrong voxel then weighs heavily.",
    Cause.LOW_CONTRAST: "What was missed is less than 1.25 standard deviations brighter than the "
    "tissue around it, or what was added is within one of the tumour's own brightness.",
    Cause.DISTRACTOR: "A false alarm that reaches farther than 5 mm from any tumour, of 80 % "
    "probability or brighter than the tissue around it; both, where it touches the tumour.",
    Cause.STACK_ENDS: "Most of the region lies in the outer tenth of the brain's slices.",
    Cause.COMPONENTS: "One of several lesions was missed although it is neither small nor faint.",
    Cause.BOUNDARY: "Within 2 mm (one pixel, where that is more) of the true surface, and not "
    "the rim of a larger error.",
    Cause.UNEXPLAINED: "No rule fits.",
}
"""What each cause means, for a reader."""

FAINT: Final = 1.25
"""Standard deviations; of 18 volumes of BraTS 2020, whole tumours measure 1.7 and more in 17."""
ALIKE: Final = 1.0
BRIGHT: Final = 0.5
"""Standard deviations."""
FAR: Final = 5.0
"""mm or px."""
CONFIDENT: Final = 0.8
MOSTLY: Final = 0.5
ORDINARY: Final = (Cause.BOUNDARY, Cause.UNEXPLAINED)
"""Named first only where no other cause weighs."""
NOTABLE: Final = 0.2
"""A cause that explains this share of a patient's lost Dice is named before the boundary."""


def region_cause(region: RegionEvidence, patient: PatientEvidence) -> Cause:
    """Choose the cause of one region: the first rule that fits."""
    if region.kind == "inconsistent slices":
        return Cause.TRUTH
    if region.kind == "boundary":
        return Cause.BOUNDARY
    if patient.out_of_range:
        return Cause.INTENSITY
    return _BY_KIND[region.kind](region, patient)


def patient_cause(shares: Mapping[Cause, float], patient: PatientEvidence) -> Cause:
    """Choose the cause to name first for a patient, from the share each cause explains.

    Disagreement at the boundary is what two experts also show, so it comes first only
    where no other cause explains a fifth of the loss; "unexplained" yields likewise. A
    tumour below 1 ml is itself the cause: what is wrong elsewhere would cost a large one
    little (Reinke et al., "Understanding metric-related pitfalls", 2024).
    """
    telling = {cause: share for cause, share in shares.items() if cause not in ORDINARY}
    if 0 < patient.tumour_volume < SMALL_LESION and not patient.out_of_range:
        return Cause.SMALL
    best = max(telling, key=telling.__getitem__, default=None)
    if best is not None and telling[best] >= NOTABLE:
        return best
    return max(ORDINARY, key=lambda cause: shares.get(cause, 0.0))


def _missed_lesion(region: RegionEvidence, patient: PatientEvidence) -> Cause:
    if region.volume < SMALL_LESION:
        return Cause.SMALL
    if region.contrast < FAINT:
        return Cause.LOW_CONTRAST
    if region.at_ends > MOSTLY:
        return Cause.STACK_ENDS
    return Cause.COMPONENTS if patient.lesions > 1 else Cause.UNEXPLAINED


def _missed_part(region: RegionEvidence, patient: PatientEvidence) -> Cause:
    if region.contrast < FAINT:
        return Cause.LOW_CONTRAST
    return Cause.STACK_ENDS if region.at_ends > MOSTLY else Cause.UNEXPLAINED


def _false_lesion(region: RegionEvidence, patient: PatientEvidence) -> Cause:
    striking = region.confidence >= CONFIDENT or region.contrast >= BRIGHT
    if region.distance > FAR and striking:
        return Cause.DISTRACTOR
    return Cause.STACK_ENDS if region.at_ends > MOSTLY else Cause.UNEXPLAINED


def _false_part(region: RegionEvidence, patient: PatientEvidence) -> Cause:
    striking = region.confidence >= CONFIDENT and region.contrast >= BRIGHT
    if region.distance > FAR and striking:
        return Cause.DISTRACTOR
    if abs(region.likeness) < ALIKE or patient.tumour_contrast < FAINT:
        return Cause.LOW_CONTRAST
    return Cause.STACK_ENDS if region.at_ends > MOSTLY else Cause.UNEXPLAINED


_BY_KIND: Final[Mapping[str, Callable[[RegionEvidence, PatientEvidence], Cause]]] = {
    "missed lesion": _missed_lesion,
    "small lesion": lambda region, patient: Cause.SMALL,
    "missed part": _missed_part,
    "false lesion": _false_lesion,
    "false part": _false_part,
    "scattered": lambda region, patient: Cause.UNEXPLAINED,
}

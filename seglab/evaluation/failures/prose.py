"""A patient's failure in plain English, with its figures, fit for a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from seglab.evaluation.failures.causes import ORDINARY, Cause
from seglab.evaluation.failures.evidence import PatientEvidence, RegionEvidence
from seglab.evaluation.failures.explain import Explanation, Finding
from seglab.evaluation.failures.regions import SMALL_LESION
from seglab.evaluation.failures.selection import OVER, UNDER

WORTH_TELLING: Final = 0.05
"""Share of the wrong voxels below which a further cause is left out."""
FEWEST_TOLD: Final = 0.5
"""Below this recall most of the tumour was missed."""
MOSTLY_ONE: Final = 0.9
"""Where the largest finding makes up this share of its cause, others are not counted up."""


def paragraph(explanation: Explanation) -> str:
    """Describe a patient in two to five sentences: the result, the main cause, the rest."""
    sentences = [_result(explanation)]
    if explanation.cause is not None:
        sentences += [_main(explanation), *_evidence(explanation), *_rest(explanation)]
    return " ".join(sentences)


def describe(finding: Finding, patient: PatientEvidence) -> str:
    """Describe one finding in a sentence with the measurements its cause rests on."""
    text = _SENTENCES[finding.cause](finding.evidence, patient)
    return text[0].upper() + text[1:] + "."


def _result(explanation: Explanation) -> str:
    score, patient = explanation.score, explanation.evidence
    true, predicted = (_volume(px, explanation) for px in (score.truth_px, score.pred_px))
    if not score.truth_px:
        outcome = f"but {predicted} were predicted" if score.pred_px else "and none was predicted"
        return f"{score.patient_id} has no tumour, {outcome}."
    several = f" in {patient.lesions} separate lesions" if patient.lesions > 1 else ""
    opening = f"{score.patient_id} has a tumour of {true}{several}"
    if not score.pred_px:
        return f"{opening}; nothing was predicted (Dice 0.00)."
    ratio = score.pred_px / score.truth_px
    if ratio > OVER:
        verdict = "too much was outlined"
    elif score.recall < FEWEST_TOLD:
        verdict = "most of it was missed"
    else:
        verdict = "too little was outlined" if ratio < UNDER else "the size is about right"
    return f"{opening}; {verdict} ({predicted} predicted, Dice {score.dice:.2f})."


def _main(explanation: Explanation) -> str:
    cause = explanation.cause
    assert cause is not None
    share = explanation.shares.get(cause, 0.0)
    loss = f"{explanation.lost_dice:.2f} lost Dice" if explanation.lost_dice else "wrong area"
    if cause is Cause.UNEXPLAINED:
        return f"No rule explains the largest part of it: {share:.0%} of the {loss}."
    if _is_tiny(explanation):
        weight = "so small that each wrong voxel weighs heavily"
        return f"The main cause is {_NAMES[cause]}: the whole tumour is {weight}."
    larger = _larger_ordinary(explanation)
    if larger:
        return (
            f"The costliest part of the {loss} is {_listed(larger, explanation)}; beyond it, the "
            f"main cause is {_NAMES[cause]} ({share:.0%})."
        )
    return f"The main cause is {_NAMES[cause]}, which explains {share:.0%} of the {loss}."


def _is_tiny(explanation: Explanation) -> bool:
    small = explanation.evidence.tumour_volume < SMALL_LESION
    return explanation.cause is Cause.SMALL and small


def _larger_ordinary(explanation: Explanation) -> list[Cause]:
    """Find what any case shows, and what here cost more than the cause that is named first."""
    cause, shares = explanation.cause, explanation.shares
    if cause is None or cause in ORDINARY or _is_tiny(explanation):
        return []
    larger = [one for one in ORDINARY if shares.get(one, 0.0) > shares[cause]]
    return sorted(larger, key=lambda one: -shares[one])


def _listed(causes: Sequence[Cause], explanation: Explanation) -> str:
    """Write "x (40%), y (30%) and z (8%)"."""
    told = [f"{_NAMES[cause]} ({explanation.shares[cause]:.0%})" for cause in causes]
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def _evidence(explanation: Explanation) -> list[str]:
    mine = [f for f in explanation.findings if f.cause == explanation.cause]
    sentences = [describe(finding, explanation.evidence) for finding in mine[:1]]
    more = len(mine) - 1
    if more > 0 and mine[0].evidence.share < MOSTLY_ONE * explanation.shares[mine[0].cause]:
        regions = f"{more} further regions add" if more > 1 else "One further region adds"
        sentences.append(f"{regions} to it.")
    return sentences


def _rest(explanation: Explanation) -> list[str]:
    shares, cause = explanation.shares, explanation.cause
    told = {cause, *_larger_ordinary(explanation)}
    others = [one for one in shares if one not in told and shares[one] >= WORTH_TELLING]
    if not others:
        return []
    return [f"Also at work: {_listed(sorted(others, key=lambda one: -shares[one]), explanation)}."]


def _volume(pixels: int, explanation: Explanation) -> str:
    score = explanation.score
    if np.isfinite(score.truth_ml):
        ml = score.truth_ml if pixels == score.truth_px else score.pred_ml
        return f"{ml:.1f} ml"
    return f"{pixels:,} pixels"


def _size(region: RegionEvidence, patient: PatientEvidence) -> str:
    if patient.unit == "mm":
        ml = region.volume / 1000
        return f"{ml:.1f} ml" if ml >= 0.1 else f"{ml:.2f} ml"
    return f"{region.voxels:,} pixels"


def _slices(region: RegionEvidence) -> str:
    if region.first_slice == region.last_slice:
        return f"in slice {region.first_slice}"
    return f"in slices {region.first_slice} to {region.last_slice}"


_THINGS: Final[Mapping[str, str]] = {
    "false lesion": "a false alarm of",
    "missed lesion": "a missed lesion of",
    "small lesion": "a poorly outlined lesion with a wrong area of",
    "missed part": "a missed part of",
    "false part": "an added part of",
    "boundary": "a rim of",
    "scattered": "a scatter of specks of",
    "inconsistent slices": "a wrong area of",
}


def _thing(region: RegionEvidence, patient: PatientEvidence) -> str:
    side = f" ({region.side})" if region.side else ""
    return f"{_THINGS[region.kind]} {_size(region, patient)} {_slices(region)}{side}"


def _brightness(value: float) -> str:
    direction = "brighter" if value >= 0 else "darker"
    return f"{abs(value):.1f} standard deviations {direction} than the tissue around it"


def _truth(region: RegionEvidence, patient: PatientEvidence) -> str:
    if np.isnan(patient.truth_overlap):
        return (
            f"{_slices(region)} the expert outlined nothing between two slices whose outlines "
            "overlap, where the prediction goes on"
        )
    return (
        f"{_slices(region)} the expert's outline changes abruptly: neighbouring slices overlap by "
        f"as little as {patient.truth_overlap:.0%} where the prediction's overlap by "
        f"{patient.predicted_overlap:.0%}"
    )


def _intensity(region: RegionEvidence, patient: PatientEvidence) -> str:
    return (
        f"the brain's grey levels lie {patient.intensity_excess:.1f} standard deviations from "
        f"those of the training patients; the costliest region is {_thing(region, patient)}"
    )


def _small(region: RegionEvidence, patient: PatientEvidence) -> str:
    return (
        f"{_thing(region, patient)} is {_brightness(region.contrast)}, and the network's "
        f"probability there reaches {region.confidence:.0%}"
    )


def _low_contrast(region: RegionEvidence, patient: PatientEvidence) -> str:
    if region.kind == "false part":
        return (
            f"{_thing(region, patient)} differs from the tumour's own brightness by only "
            f"{abs(region.likeness):.1f} standard deviations"
        )
    return f"{_thing(region, patient)} is only {_brightness(region.contrast)}".replace(
        "is only 0.0 standard deviations brighter than", "is no brighter than"
    )


def _distractor(region: RegionEvidence, patient: PatientEvidence) -> str:
    verb = "reaches" if region.kind == "false part" else "lies"
    distance = (
        f"{verb} {region.distance:.0f} {patient.unit} from the tumour"
        if np.isfinite(region.distance)
        else "lies where there is no tumour"
    )
    return (
        f"{_thing(region, patient)} {distance}, is {_brightness(region.contrast)}, and the "
        f"network is {region.confidence:.0%} sure of it"
    )


def _stack_ends(region: RegionEvidence, patient: PatientEvidence) -> str:
    share = f"{region.at_ends:.0%} of it in the outer tenth of the brain's slices"
    return f"{_thing(region, patient)} has {share}"


def _components(region: RegionEvidence, patient: PatientEvidence) -> str:
    return (
        f"{_thing(region, patient)} is one of {patient.lesions} separate lesions; it is "
        f"{_brightness(region.contrast)}, so neither size nor contrast hides it"
    )


def _boundary(region: RegionEvidence, patient: PatientEvidence) -> str:
    return (
        f"{_thing(region, patient)} lies within {patient.rim:.2g} {patient.unit} of the true "
        "surface, about what two experts differ by"
    )


def _unexplained(region: RegionEvidence, patient: PatientEvidence) -> str:
    return (
        f"{_thing(region, patient)} is {_brightness(region.contrast)}, and the network's "
        f"probability there reaches {region.confidence:.0%}"
    )


_SENTENCES: Final[Mapping[Cause, Callable[[RegionEvidence, PatientEvidence], str]]] = {
    Cause.TRUTH: _truth,
    Cause.INTENSITY: _intensity,
    Cause.SMALL: _small,
    Cause.LOW_CONTRAST: _low_contrast,
    Cause.DISTRACTOR: _distractor,
    Cause.STACK_ENDS: _stack_ends,
    Cause.COMPONENTS: _components,
    Cause.BOUNDARY: _boundary,
    Cause.UNEXPLAINED: _unexplained,
}
_NAMES: Final[Mapping[Cause, str]] = {
    Cause.TRUTH: "a truth that is inconsistent between neighbouring slices",
    Cause.INTENSITY: "an intensity outside the training range",
    Cause.SMALL: "the small size of the lesion",
    Cause.LOW_CONTRAST: "low contrast against the surrounding tissue",
    Cause.DISTRACTOR: "an artefact or bright distractor",
    Cause.STACK_ENDS: "the first or last slices of the stack",
    Cause.COMPONENTS: "a tumour of several components",
    Cause.BOUNDARY: "disagreement at the boundary within 2 mm",
    Cause.UNEXPLAINED: "errors that no rule explains",
}

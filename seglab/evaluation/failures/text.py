"""A patient's failure in plain English, with its figures, fit for a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from seglab.evaluation.failures.explain import Cause, Explanation, Finding
from seglab.evaluation.failures.regions import SMALL_LESION

OVER: Final = 1.25
UNDER: Final = 0.8
"""Predicted over true volume beyond which a patient counts as over- or under-segmented."""
FEWEST_TOLD: Final = 0.5
"""Below this recall most of the tumour was missed."""
LEAST_SHARE: Final = 0.05
"""Of the wrong voxels: causes below it are left out of a sentence."""

THINGS: Final[Mapping[str, str]] = {
    "false lesion": "A false alarm of {size}",
    "missed lesion": "A missed lesion of {size}",
    "small lesion": "A poorly outlined lesion with a wrong area of {size}",
    "missed part": "A missed part of {size}",
    "false part": "An added part of {size}",
    "boundary": "A rim of {size}",
    "scattered": "A scatter of specks of {size}",
}
CONTRAST: Final = "its contrast to the tissue around it is {contrast:+.1f} standard deviations"
PROBABILITY: Final = "the network's probability there reaches {confidence:.0%}"
EVIDENCE: Final[Mapping[Cause, str]] = {
    Cause.SMALL: f"{CONTRAST}, and {PROBABILITY}",
    Cause.FAINT: CONTRAST + ", its difference to the tumour's own brightness {likeness:+.1f}",
    Cause.DISTRACTOR: f"{{distance}}, {CONTRAST}, and {PROBABILITY}",
    Cause.BOUNDARY: "it lies within {rim:.2g} {unit} of the true surface",
    Cause.OTHER: f"{CONTRAST}, and {PROBABILITY}",
}


def paragraph(explanation: Explanation) -> str:
    """Describe a patient in one to four sentences: the result, the causes, the worst region."""
    sentences = [_result(explanation)]
    if explanation.cause is not None:
        sentences.append(_causes(explanation))
        mine = [f for f in explanation.findings if f.cause == explanation.cause]
        sentences += [describe(finding, explanation) for finding in mine[:1]]
    return " ".join(sentences)


def describe(finding: Finding, explanation: Explanation) -> str:
    """Describe one region in a sentence with the measurements its cause rests on."""
    size = f"{finding.voxels:,} pixels"
    if explanation.unit == "mm":
        size = f"{finding.volume / 1000:.1f} ml" if finding.volume >= 100 else "less than 0.1 ml"
    slices = f"slices {finding.first_slice} to {finding.last_slice}"
    if finding.first_slice == finding.last_slice:
        slices = f"slice {finding.first_slice}"
    distance = "there is no tumour"
    if np.isfinite(finding.distance):
        verb = "lies" if finding.kind == "false lesion" else "reaches"
        distance = f"it {verb} {finding.distance:.0f} {explanation.unit} from the tumour"
    figures = vars(explanation) | vars(finding) | {"size": size, "distance": distance}
    text = f"{THINGS[finding.kind]} in {slices}: {EVIDENCE[finding.cause]}."
    return text.format(**figures)


def _result(explanation: Explanation) -> str:
    score = explanation.score
    true, predicted = (
        f"{ml:.1f} ml" if np.isfinite(ml) else f"{pixels:,} pixels"
        for ml, pixels in ((score.truth_ml, score.truth_px), (score.pred_ml, score.pred_px))
    )
    if not score.truth_px:
        outcome = f"but {predicted} were predicted" if score.pred_px else "and none was predicted"
        return f"{score.patient_id} has no tumour, {outcome}."
    several = f" in {explanation.lesions} separate lesions" if explanation.lesions > 1 else ""
    opening = f"{score.patient_id} has a tumour of {true}{several}"
    if not score.pred_px:
        highest = f"the highest probability is {explanation.highest_probability:.0%}"
        return f"{opening}; nothing was predicted: {highest} (Dice 0.00)."
    ratio, verdict = score.pred_px / score.truth_px, "the size is about right"
    if ratio > OVER:
        verdict = "too much was outlined"
    elif score.recall < FEWEST_TOLD:
        verdict = "most of it was missed"
    elif ratio < UNDER:
        verdict = "too little was outlined"
    return f"{opening}; {verdict} ({predicted} predicted, Dice {score.dice:.2f})."


def _causes(explanation: Explanation) -> str:
    lost = f"lost Dice of {explanation.lost_dice:.2f}" if explanation.lost_dice else "wrong area"
    told = [f"{c} {share:.0%}" for c, share in explanation.shares.items() if share >= LEAST_SHARE]
    tiny = ""
    if 0 < explanation.tumour_volume < SMALL_LESION:
        tiny = "The whole tumour is so small that each wrong voxel weighs heavily. "
    return f"{tiny}Of the {lost}: {', '.join(told)}."

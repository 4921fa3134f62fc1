"""What a page of failures says: patients in plain English, what causes cost, whom to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from seglab.evaluation.failures import RULES, Cause, Explanation, Finding
from seglab.evaluation.metrics import PatientScore, mean
from seglab.evaluation.regions import SMALL_LESION
from seglab.evaluation.scores import size_text

SHOWN_PER_RULE: Final = 5
ONLY_BOUNDARY: Final = 0.8
OVER, UNDER = 1.25, 0.8  # predicted over true volume: over- and under-segmented beyond
ABOUT_RIGHT: Final = 0.1  # of the true volume
LEAST_SHARE: Final = 0.05  # of wrong or missed voxels: what is below it is left out of a sentence

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
    Cause.FAINT: f"{CONTRAST}, its difference to the tumour's own brightness {{likeness:+.1f}} SD",
    Cause.VISIBLE: f"{CONTRAST}, and {PROBABILITY}",
    Cause.DISTRACTOR: f"{{distance}}, {CONTRAST}, and {PROBABILITY}",
    Cause.WIDE: f"{{distance}}, {CONTRAST}, and {PROBABILITY}",
    Cause.BOUNDARY: "it lies within {rim:.2g} {unit} of the true surface",
    Cause.OTHER: f"{CONTRAST}, and {PROBABILITY}",
}


def paragraph(explanation: Explanation) -> str:
    """Describe a patient in one to four sentences: the result, the causes, the worst region."""
    sentences = [_result(explanation)]
    if explanation.cause is not None:
        sentences.append(_causes(explanation))
        told = told_finding(explanation)
        sentences += [describe(told, explanation)] if told else []
    return " ".join(sentences)


def told_finding(explanation: Explanation) -> Finding | None:
    """The region that the paragraph describes: the costliest of the cause named first."""
    return next((f for f in explanation.findings if f.cause == explanation.cause), None)


def describe(finding: Finding, explanation: Explanation) -> str:
    """Describe one region in a sentence with the measurements its cause rests on."""
    ml = finding.volume / 1000 if explanation.unit == "mm" else math.nan
    size = size_text(ml, finding.voxels)
    slices = f"slices {finding.first_slice} to {finding.last_slice}"
    if finding.first_slice == finding.last_slice:
        slices = f"slice {finding.first_slice}"
    distance = "there is no tumour"
    if np.isfinite(finding.distance):
        verb = "lies" if finding.kind == "false lesion" else "reaches"
        distance = f"it {verb} {finding.distance:.0f} {explanation.unit} from the tumour"
    figures = vars(explanation) | vars(finding) | {"size": size, "distance": distance}
    text = f"{THINGS[finding.kind]} in {slices}: {EVIDENCE[finding.cause]}."
    return text.format(**figures).replace(" -", " −")


def _result(explanation: Explanation) -> str:
    score = explanation.score
    true = size_text(score.truth_ml, score.truth_px)
    predicted = size_text(score.pred_ml, score.pred_px)
    if not score.truth_px:
        outcome = f"but {predicted} were predicted" if score.pred_px else "and none was predicted"
        return f"{score.patient_id} has no tumour, {outcome}."
    several = f" in {explanation.lesions} separate lesions" if explanation.lesions > 1 else ""
    there = "" if explanation.is_volume else f" in the slices that are there ({score.slices})"
    opening = f"{score.patient_id} has a tumour of {true}{several}{there}"
    if not score.pred_px:
        highest = f"the highest probability is {explanation.highest_probability:.0%}"
        return f"{opening}; nothing was predicted: {highest} (Dice 0.00)."
    if not score.tp:
        return (
            f"{opening}; all of it was missed, and {predicted} were marked elsewhere (Dice 0.00)."
        )
    ratio, missed = _size_ratio(explanation), min(1 - score.recall, 0.99)
    size = f"{min(abs(ratio - 1), 0.99):.0%} too {'large' if ratio > 1 else 'small'}"
    if ratio >= 2:
        size = f"{ratio:.1f} times its size"
    elif abs(ratio - 1) <= ABOUT_RIGHT:
        size = "of about the right size"
    misses = f" and misses {missed:.0%} of it" if missed >= LEAST_SHARE else ""
    return f"{opening}; the prediction of {predicted} is {size}{misses} (Dice {score.dice:.2f})."


def _causes(explanation: Explanation) -> str:
    lost = f"lost Dice of {explanation.lost_dice:.2f}" if explanation.lost_dice else "wrong area"
    told = [f"{c} {share:.0%}" for c, share in explanation.shares.items() if share >= LEAST_SHARE]
    tiny = ""
    if explanation.is_volume and 0 < explanation.tumour_volume < SMALL_LESION:
        tiny = "The whole tumour is so small that each wrong voxel weighs heavily. "
    return f"{tiny}Of the {lost}: {', '.join(told)}."


def _size_ratio(explanation: Explanation) -> float:
    score = explanation.score
    return score.pred_px / score.truth_px if score.truth_px else 1.0


@dataclass(frozen=True)
class CauseCost:
    """What one cause cost over all patients."""

    cause: Cause
    patients: int  # for whom it is named first
    findings: int  # regions attributed to it
    share: float  # of the Dice lost over all patients; NaN where none was lost


@dataclass(frozen=True)
class FailureAnalysis:
    """All patients explained, the causes counted, the cases to look at chosen."""

    explanations: Mapping[str, Explanation]  # by patient id, lowest Dice first, without one last
    costs: tuple[CauseCost, ...]  # every cause that occurs, costliest first
    selection: Mapping[str, tuple[str, ...]]  # ids by rule of ``MEANINGS``, in its order

    def to_json(self) -> dict[str, Any]:
        """What the gallery says in words and figures, as ``failures.json`` holds it."""
        chosen = self.selection.items()
        cases = [
            {
                "patient_id": name,
                "dice": one.score.dice,
                "cause": one.cause,
                "causes": dict(one.shares),
                "rules": [rule for rule, names in chosen if name in names],
                "text": paragraph(one),
            }
            for name, one in self.explanations.items()
        ]
        return {
            "patients": len(cases),
            "mean_dice": mean([one.score.dice for one in self.explanations.values()]),
            "causes": [{**vars(cost), "rule": RULES[cost.cause]} for cost in self.costs],
            "cases": cases,
        }


def analyse(explanations: Sequence[Explanation], count: int = SHOWN_PER_RULE) -> FailureAnalysis:
    """Sum up explained patients, each once, and choose up to ``count`` by each rule."""
    ordered = sorted(explanations, key=lambda e: (np.isnan(e.score.dice), e.score.dice))
    by_id = {explanation.score.patient_id: explanation for explanation in ordered}
    return FailureAnalysis(by_id, _costs(ordered), _select(ordered, count))


def _costs(explanations: Sequence[Explanation]) -> tuple[CauseCost, ...]:
    total = sum(explanation.lost_dice for explanation in explanations)
    costs = []
    for cause in Cause:
        lost = sum(e.lost_dice * e.shares.get(cause, 0.0) for e in explanations)
        findings = sum(f.cause == cause for e in explanations for f in e.findings)
        first = sum(e.cause == cause for e in explanations)
        if findings:
            costs.append(CauseCost(cause, first, findings, lost / total if total else np.nan))
    return tuple(sorted(costs, key=lambda cost: -np.nan_to_num(cost.share)))


def _select(explanations: Sequence[Explanation], count: int) -> dict[str, tuple[str, ...]]:
    ranking = best_median_worst([e.score for e in explanations], count)
    chosen = {rule: tuple(names) for rule, names in ranking.items()}
    for rule, measure in MEASURES.items():
        highest = sorted(explanations, key=lambda e: -measure(e))[:count]
        chosen[rule] = tuple(e.score.patient_id for e in highest if measure(e) > 0)
    return {rule: chosen[rule] for rule in MEANINGS}


def best_median_worst(scores: Sequence[PatientScore], count: int) -> dict[str, list[str]]:
    """Name up to ``count`` patients from each end and from the middle of the Dice ranking.

    None is named twice, and of three and more patients no list is empty. The worst start at the
    lowest Dice, the others at their highest.
    """
    known = sorted((s for s in scores if np.isfinite(s.dice)), key=lambda s: s.dice)
    ranked, middle = [score.patient_id for score in known], (len(known) - 1) / 2
    from_middle = [ranked[at] for at in sorted(range(len(known)), key=lambda r: abs(r - middle))]
    count = min(count, -(-len(known) // 3), max(1, (len(known) - 1) // 2))
    worst = ranked[:count]
    best = [name for name in reversed(ranked) if name not in worst][:count]
    median = [name for name in from_middle if name not in {*worst, *best}][:count]
    median.sort(key=ranked.index, reverse=True)
    return {"best": best, "median": median, "worst": worst}


MEASURES: Final[Mapping[str, Callable[[Explanation], float]]] = {
    "missed lesion": lambda e: max(
        (f.lost_dice for f in e.findings if f.kind == "missed lesion"), default=0.0
    ),
    "false alarm on empty slices": lambda e: e.score.empty_slice_fp,
    "over-segmentation": lambda e: ratio if (ratio := _size_ratio(e)) > OVER else 0.0,
    "under-segmentation": lambda e: 1 - ratio if (ratio := _size_ratio(e)) < UNDER else 0.0,
    "boundary only": lambda e: (
        e.lost_dice if e.shares.get(Cause.BOUNDARY, 0.0) >= ONLY_BOUNDARY else 0.0
    ),
}
"""Rules that take the patients of the highest measure above 0."""
MEANINGS: Final[Mapping[str, str]] = {
    "worst": "lowest Dice",
    "missed lesion": "less than a tenth of a whole lesion was found; largest loss first",
    "false alarm on empty slices": "most tumour-free slices with something predicted",
    "over-segmentation": "predicted volume above 1.25 times the true one; highest ratio first",
    "under-segmentation": "predicted volume below 0.8 times the true one; lowest ratio first",
    "boundary only": "the boundary explains at least 80 % of the lost Dice; largest loss first",
    "best": "highest Dice",
    "median": "nearest the median Dice",
}
"""Why a patient is shown, in the order of the page."""

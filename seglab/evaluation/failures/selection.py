"""Which patients are shown, by rule, and what the causes cost over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from seglab.evaluation.failures.causes import Cause
from seglab.evaluation.failures.explain import Explanation

SHOWN_PER_RULE: Final = 5
FEWEST_WORST: Final = 3
"""Shown as worst even in a small set, where they may be the best too."""
OVER: Final = 1.25
UNDER: Final = 0.8
"""Predicted over true volume."""
ONLY_BOUNDARY: Final = 0.8


class Rule(StrEnum):
    """Why a patient is shown."""

    WORST = "worst"
    MISSED = "missed lesion"
    FALSE_ALARM = "false alarm on empty slices"
    OVER = "over-segmentation"
    UNDER = "under-segmentation"
    BOUNDARY = "boundary only"
    BEST = "best"
    MEDIAN = "median"


MEANINGS: Final[Mapping[Rule, str]] = {
    Rule.WORST: "lowest Dice",
    Rule.MISSED: "less than a tenth of a whole lesion was found; largest loss first",
    Rule.FALSE_ALARM: "most tumour-free slices with something predicted",
    Rule.OVER: "predicted volume above 1.25 times the true one; highest ratio first",
    Rule.UNDER: "predicted volume below 0.8 times the true one; lowest ratio first",
    Rule.BOUNDARY: "the boundary explains at least 80 % of the lost Dice; largest loss first",
    Rule.BEST: "highest Dice",
    Rule.MEDIAN: "nearest the median Dice",
}


@dataclass(frozen=True)
class CauseCost:
    """What one cause cost over all patients."""

    cause: Cause
    patients: int
    """Patients for whom it is named first."""
    findings: int
    """Regions put down to it."""
    share: float
    """Of the Dice lost over all patients; NaN where none was lost."""


@dataclass(frozen=True)
class FailureAnalysis:
    """All patients explained, the causes counted, the cases to look at chosen."""

    explanations: Mapping[str, Explanation]
    """By patient id, lowest Dice first; patients without a Dice last."""
    costs: tuple[CauseCost, ...]
    """Every cause that occurs, costliest first."""
    selection: Mapping[Rule, tuple[str, ...]]
    """Ids chosen by each rule, in the rule's order; a patient may be chosen by several."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Every patient some rule chose, lowest Dice first."""
        chosen = {name for names in self.selection.values() for name in names}
        return tuple(name for name in self.explanations if name in chosen)

    def rules_of(self, patient_id: str) -> tuple[Rule, ...]:
        """The rules that chose a patient."""
        return tuple(rule for rule, names in self.selection.items() if patient_id in names)


def analyse(explanations: Sequence[Explanation], count: int = SHOWN_PER_RULE) -> FailureAnalysis:
    """Sum up explained patients and choose up to ``count`` by each rule.

    Raises:
        ValueError: a patient is explained twice.
    """
    ordered = sorted(explanations, key=lambda e: (np.isnan(e.score.dice), e.score.dice))
    by_id = {explanation.patient_id: explanation for explanation in ordered}
    if len(by_id) != len(explanations):
        raise ValueError("a patient is explained twice")
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


def _select(explanations: Sequence[Explanation], count: int) -> dict[Rule, tuple[str, ...]]:
    ranked = [e.patient_id for e in explanations if np.isfinite(e.score.dice)]
    third = min(count, -(-len(ranked) // 3))
    middle = (len(ranked) - 1) / 2
    from_middle = sorted(range(len(ranked)), key=lambda rank: abs(rank - middle))
    return {
        Rule.WORST: tuple(ranked[: max(third, FEWEST_WORST)]),
        Rule.MISSED: _highest(explanations, _missed, count),
        Rule.FALSE_ALARM: _highest(explanations, lambda e: e.score.empty_slice_fp, count),
        Rule.OVER: _highest(explanations, _over, count),
        Rule.UNDER: _highest(explanations, _under, count),
        Rule.BOUNDARY: _highest(explanations, _boundary_only, count),
        Rule.BEST: tuple(reversed(ranked))[:third],
        Rule.MEDIAN: tuple(ranked[rank] for rank in from_middle[:third]),
    }


def _highest(
    explanations: Sequence[Explanation], measure: Callable[[Explanation], float], count: int
) -> tuple[str, ...]:
    """Take the patients of the highest measure above 0; equal ones by the order given."""
    ranked = sorted(explanations, key=lambda e: -measure(e))
    return tuple(e.patient_id for e in ranked[:count] if measure(e) > 0)


def _missed(explanation: Explanation) -> float:
    missed = [f for f in explanation.findings if f.evidence.kind == "missed lesion"]
    return max((finding.lost_dice for finding in missed), default=0.0)


def _over(explanation: Explanation) -> float:
    score = explanation.score
    if not score.truth_px or score.pred_px <= OVER * score.truth_px:
        return 0.0
    return score.pred_px / score.truth_px


def _under(explanation: Explanation) -> float:
    score = explanation.score
    if score.pred_px >= UNDER * score.truth_px:
        return 0.0
    return 1 - score.pred_px / score.truth_px


def _boundary_only(explanation: Explanation) -> float:
    share = explanation.shares.get(Cause.BOUNDARY, 0.0)
    return explanation.lost_dice if share >= ONLY_BOUNDARY else 0.0

"""Which patients are shown, by rule, and what the causes cost over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from seglab.evaluation.failures.explain import Cause, Explanation
from seglab.evaluation.failures.text import OVER, UNDER

SHOWN_PER_RULE: Final = 5
FEWEST_WORST: Final = 3
"""Shown as worst even in a small set, where they may be the best too."""
ONLY_BOUNDARY: Final = 0.8


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
    selection: Mapping[str, tuple[str, ...]]
    """Ids chosen by each rule of :data:`MEANINGS`, in the rule's order; a patient may be
    chosen by several."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Every patient some rule chose, lowest Dice first."""
        chosen = {name for names in self.selection.values() for name in names}
        return tuple(name for name in self.explanations if name in chosen)

    def rules_of(self, patient_id: str) -> tuple[str, ...]:
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


def _select(explanations: Sequence[Explanation], count: int) -> dict[str, tuple[str, ...]]:
    ranked = [e.patient_id for e in explanations if np.isfinite(e.score.dice)]
    third = min(count, -(-len(ranked) // 3))
    middle = (len(ranked) - 1) / 2
    from_middle = sorted(range(len(ranked)), key=lambda rank: abs(rank - middle))
    chosen = {
        "worst": tuple(ranked[: max(third, FEWEST_WORST)]),
        "best": tuple(reversed(ranked))[:third],
        "median": tuple(ranked[rank] for rank in from_middle[:third]),
    }
    for rule, measure in MEASURES.items():
        highest = sorted(explanations, key=lambda e: -measure(e))[:count]
        chosen[rule] = tuple(e.patient_id for e in highest if measure(e) > 0)
    return {rule: chosen[rule] for rule in MEANINGS}


def _missed(explanation: Explanation) -> float:
    missed = [f.lost_dice for f in explanation.findings if f.kind == "missed lesion"]
    return max(missed, default=0.0)


def _over(explanation: Explanation) -> float:
    score = explanation.score
    ratio = score.pred_px / score.truth_px if score.truth_px else 0.0
    return ratio if ratio > OVER else 0.0


def _under(explanation: Explanation) -> float:
    score = explanation.score
    ratio = score.pred_px / score.truth_px if score.truth_px else 1.0
    return 1 - ratio if ratio < UNDER else 0.0


def _boundary_only(explanation: Explanation) -> float:
    share = explanation.shares.get(Cause.BOUNDARY, 0.0)
    return explanation.lost_dice if share >= ONLY_BOUNDARY else 0.0


MEASURES: Final[Mapping[str, Callable[[Explanation], float]]] = {
    "missed lesion": _missed,
    "false alarm on empty slices": lambda e: e.score.empty_slice_fp,
    "over-segmentation": _over,
    "under-segmentation": _under,
    "boundary only": _boundary_only,
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

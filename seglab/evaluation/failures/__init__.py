"""Failures explained: what was measured, which cause it points to, and what it cost."""

from seglab.evaluation.failures.causes import RULES, Cause
from seglab.evaluation.failures.explain import Explanation, Finding, explain
from seglab.evaluation.failures.intensity import IntensityRange, learn_range
from seglab.evaluation.failures.prose import describe, paragraph
from seglab.evaluation.failures.selection import (
    MEANINGS,
    CauseCost,
    FailureAnalysis,
    Rule,
    analyse,
)

__all__ = [
    "MEANINGS",
    "RULES",
    "Cause",
    "CauseCost",
    "Explanation",
    "FailureAnalysis",
    "Finding",
    "IntensityRange",
    "Rule",
    "analyse",
    "describe",
    "explain",
    "learn_range",
    "paragraph",
]

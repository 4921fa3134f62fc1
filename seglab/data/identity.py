"""Is an image what its name says: FLAIR, T1, T1ce or T2? Measured, never believed.

Each figure of :mod:`seglab.data.appearance` excludes some of the four above one limit and
others below another; between the two it decides nothing. A name is proven where every other is
excluded and wrong where it is excluded itself; else it is said what is missing to tell.

Measured with the labels of 18 FLAIR, 12 T1, 8 T1ce and 2 T2 volumes of BraTS 2020 and one patient
of BraTS 2023: every one is proven, and told wrong under each of the other three names; equally
where the labels are merged to one. Without a mask T1 (13 of 13) and T2 (3 of 3) are proven, and
FLAIR and T1ce are not told apart. 14 patients of the LGG set: FLAIR is proven in 13, but T1 and
T1ce are not told apart, with the skull on and a merged mask. Single BraTS slices mislead (5 % of
FLAIR, 6 % of T1, 11 % of T1ce and 24 % of T2 are told wrong); medians over 40 of them never did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from seglab.core.config import MODALITIES
from seglab.data.appearance import NAN, SKULL, Figures, median

Verdict = Literal["proven", "not provable", "wrong"]
TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}
MIN_SLICES = 5
"""A patient is called wrong by itself only from so many slices."""


class Limits(NamedTuple):
    """What a figure excludes."""

    words: str
    low: float
    high: float
    below: frozenset[str]
    """The modalities that have it below ``low``."""
    above: frozenset[str]
    """The modalities that have it above ``high``."""
    unknown: str
    """What is missing where it is NaN."""

    def allows(self, value: float) -> frozenset[str]:
        """The modalities that may have this value."""
        if value < self.low:
            return self.below
        return self.above if value > self.high else self.below | self.above


_ALL = frozenset(MODALITIES)
_T1, _T1CE, _T2 = frozenset({"t1"}), frozenset({"t1ce"}), frozenset({"t2"})
LIMITS = (
    Limits("CSF brightness {:+.2f}", 0.28, 0.38, _ALL - _T2, _T2, "too little tissue is seen"),
    Limits("oedema {:+.1f} σ", 0.6, 1.1, _T1 | _T1CE, _ALL - _T1 - _T1CE, "no tumour is outlined"),
    Limits(
        "enhancement {:+.1f} σ", 0.9, 1.3, _ALL - _T1CE, _ALL - _T1, "no enhancing part is labelled"
    ),
    Limits("brightest tissue {:+.1f} σ", 3.05, 4.0, _T1, _ALL - _T1, "the skull is on"),
)
"""Of volumes: CSF brightness of T2 at least 0.45, else at most 0.24 (LGG set 0.27); oedema on T1
and T1ce at most 0.2 (LGG set 0.9), on T2 at least 1.3, on FLAIR 2.2 (LGG set 0.7, the next 1.5);
enhancement on T1 at most 0.7, on T1ce at least 1.5; brightest tissue of T1 at most 3.0, else at
least 4.4. They were set on the volumes that they are tested on."""


@dataclass(frozen=True)
class ModalityIdentity:
    """What the figures say of images that are named as one modality."""

    modality: str
    figures: Figures
    patients: int
    """How many were measured."""

    @property
    def looks_like(self) -> tuple[str, ...]:
        """The modalities that no figure excludes: all where nothing is known, perhaps none."""
        return _allowed(self._decisive)

    @property
    def verdict(self) -> Verdict:
        """Whether the name is proven, wrong, or neither."""
        if self.modality not in self.looks_like:
            return "wrong"
        return "proven" if len(self.looks_like) == 1 else "not provable"

    @property
    def reason(self) -> str:
        """One line with the figures that decided, or what is missing."""
        looks = " or ".join(TITLES[name] for name in self.looks_like) or "none of the four"
        decided = [each for each in self._decisive if each[0].allows(each[1]) != _ALL]
        if self.verdict == "wrong":
            shown = [each for each in decided if self.modality not in each[0].allows(each[1])]
            start = f"looks like {looks}, not {TITLES[self.modality]}"
        elif self.verdict == "proven":
            shown, start = decided, f"looks like {looks}"
        else:
            shown = [each for each in self._decisive if each not in decided]
            start = f"may be {looks}"
        return f"{start}: {', '.join(self._words(*each) for each in shown)}"

    @property
    def _decisive(self) -> list[tuple[Limits, float]]:
        """All; the brightest tissue where the others do not decide, and the skull is off."""
        *others, brightest, skull, _ = self.figures
        figures = list(zip(LIMITS, others, strict=False))
        if len(_allowed(figures)) > 1:
            figures.append((LIMITS[-1], brightest if skull < SKULL else NAN))
        return figures

    def _words(self, limits: Limits, value: float) -> str:
        if math.isnan(value):
            return limits.unknown
        words, allowed = limits.words.format(value), limits.allows(value)
        if allowed == _ALL:
            return f"{words} is between {limits.low:+g} and {limits.high:+g}"
        if self.modality in allowed:
            return words
        limit = f"above {limits.high:+g}" if allowed == limits.below else f"below {limits.low:+g}"
        return f"{words} ({TITLES[self.modality]}: {limit})"

    def to_json(self) -> dict[str, Any]:
        """Plain values; a figure that is not known is None."""
        figures = {k: None if math.isnan(v) else v for k, v in self.figures._asdict().items()}
        return {
            "verdict": self.verdict,
            "looks_like": list(self.looks_like),
            "reason": self.reason,
            "patients": self.patients,
            **figures,
        }


@dataclass(frozen=True)
class Identity:
    """What the images of a patient, or of a set, say of the names of their modalities."""

    modalities: tuple[ModalityIdentity, ...]

    @property
    def wrong(self) -> tuple[ModalityIdentity, ...]:
        """Those that are not what their name says."""
        return tuple(one for one in self.modalities if one.verdict == "wrong")

    @property
    def ok(self) -> bool:
        """Whether something was measured and nothing is wrong."""
        return not self.wrong and any(one.patients for one in self.modalities)

    @property
    def reason(self) -> str:
        """One line: what is wrong; if nothing is, what was found of each modality."""
        told = self.wrong or self.modalities
        return "; ".join(f"{one.modality} {one.reason}" for one in told) or "nothing was measured"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        limits = {name: one[1:3] for name, one in zip(Figures._fields, LIMITS, strict=False)}
        return {
            "ok": self.ok,
            "evidence": {"reason": self.reason, "limits": limits},
            "modalities": {one.modality: one.to_json() for one in self.modalities},
        }


def _allowed(figures: Sequence[tuple[Limits, float]]) -> tuple[str, ...]:
    allowed = _ALL.intersection(*(limits.allows(value) for limits, value in figures))
    return tuple(name for name in MODALITIES if name in allowed)


def identify(patients: Sequence[Mapping[str, Figures]], modalities: Sequence[str]) -> Identity:
    """Judge one patient, or a set by the medians over its patients."""
    return Identity(tuple(_identify(patients, name) for name in modalities))


def _identify(patients: Sequence[Mapping[str, Figures]], name: str) -> ModalityIdentity:
    seen = [figures[name] for figures in patients if name in figures]
    medians = (median([one[k] for one in seen]) for k in range(len(Figures._fields) - 1))
    slices = sum(one.slices for one in seen)
    return ModalityIdentity(
        name, Figures._make([*medians, slices]), sum(one.slices > 0 for one in seen)
    )

"""Is an image what its name says: FLAIR, T1, T1ce or T2? Measured from the pixels.

Each figure excludes some of the four above one limit and others below another. A name is proven
where every other is excluded: so it is for all of 40 BraTS volumes with labels; without a mask
FLAIR and T1ce are not told apart. Single slices mislead, medians over 40 of them never did.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.core.config import MODALITIES
from seglab.data.labels import ENHANCING, OEDEMA, UNKNOWN_PART

Image = NDArray[np.float32]
Labels = NDArray[np.uint8]
Region = NDArray[np.bool_]
NAN = float("nan")
TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}

MAX_SLICES = 15  # slices of a volume that are measured; a median needs no more
MIN_TISSUE, MIN_REGION = 0.08, 0.0005
"""Smallest share of the frame that a head, and a region with a median, must fill to be used."""
RIM = 0.1  # depth cut off the outline, in √area: takes skull and scalp away where they are present
BLUR, EDGE = 2 / 240, (1.5 / 240, 6 / 240)
"""In sides: blur before comparing with the mirror image; depth of a tumour's edge."""
SKULL_LAYERS = (0.015, 0.03, 0.045, 0.06, 0.075, 0.09, 0.12)
"""Edges of the layers in which the skull is looked for, in √area of the head."""
SKULL = 0.2
"""``skull_fall`` of a head with its skull is above this, of a brain without below: 18 BraTS FLAIR
volumes at most 0.17, 14 of the LGG set at least 0.28 on each channel."""


class Figures(NamedTuple):
    """Ratios of one modality of one patient: medians over slices; NaN where they cannot tell.

    σ is the interquartile range of healthy tissue / 1.349.
    """

    csf_brightness: float
    """(p98 + p2 - 2 p50) / (p98 - p2) of the smaller of each pixel and its mirror pixel: whether
    fluid, which is on both sides, is bright (towards 1) or dark (-1); a tumour is on one."""
    oedema_z: float
    """Median of the oedema (or the edge of a merged mask) above healthy tissue, in σ."""
    enhancement_z: float  # median of the enhancing part above that of the other tumour, in σ
    bright_tail: float
    """99.9th percentile of the brain above healthy tissue, in σ; of the slices the 90th. Contrast
    agent, which is in vessels too, makes one, or tumour; or fat, where the skull is on."""
    skull_fall: float
    """Largest fall of the median brightness on the way inwards, in units of the brain's: from
    bright scalp to dark bone."""
    slices: int = 0  # how many showed a head


class Limits(NamedTuple):
    """What a figure excludes."""

    words: str
    low: float
    high: float
    below: frozenset[str]  # the modalities that have it below ``low``
    above: frozenset[str]  # the modalities that have it above ``high``
    unknown: str  # what is missing where it is NaN

    def allows(self, value: float) -> frozenset[str]:
        """The modalities that may have this value."""
        if value < self.low:
            return self.below
        return self.above if value > self.high else self.below | self.above

    def tell(self, name: str, value: float) -> str:
        """The figure in words, with the limit that it is on the wrong side of for ``name``."""
        if math.isnan(value):
            return self.unknown
        words, allowed = self.words.format(value), self.allows(value)
        if allowed == _ALL:
            return f"{words} is between {self.low:+g} and {self.high:+g}"
        limit = f"above {self.high:+g}" if allowed == self.below else f"below {self.low:+g}"
        return words if name in allowed else f"{words} ({TITLES[name]}: {limit})"


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
enhancement on T1 at most 0.7, on T1ce at least 1.5; brightest tissue of T1 at most 3, else 4.4."""


@dataclass(frozen=True)
class ModalityIdentity:
    """What the figures say of images that are named as one modality."""

    modality: str
    verdict: str  # ``proven``, ``wrong`` or ``not provable``
    looks_like: list[str]
    """The modalities that no figure excludes: all where nothing is known, perhaps none."""
    reason: str  # one line with the figures that decided, or what is missing
    patients: int  # how many were measured
    figures: Figures


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
        """Plain values; a figure that is not known is None."""
        limits = {name: one[1:3] for name, one in zip(Figures._fields, LIMITS, strict=False)}
        told = {}
        for one in self.modalities:
            figures = {k: None if math.isnan(v) else v for k, v in one.figures._asdict().items()}
            told[one.modality] = vars(one) | figures
            del told[one.modality]["figures"]
        evidence = {"reason": self.reason, "limits": limits}
        return {"ok": self.ok, "evidence": evidence, "modalities": told}


def identify(patients: Sequence[Mapping[str, Figures]], modalities: Sequence[str]) -> Identity:
    """Judge one patient, or a set by the medians over its patients."""
    found = []
    for name in modalities:
        seen = [figures[name] for figures in patients if name in figures]
        medians = [median([one[k] for one in seen]) for k in range(5)]
        figures = Figures._make([*medians, sum(one.slices for one in seen)])
        found.append(_judge(name, figures, sum(one.slices > 0 for one in seen)))
    return Identity(tuple(found))


def _judge(name: str, figures: Figures, patients: int) -> ModalityIdentity:
    *others, brightest, skull, _ = figures
    decisive = list(zip(LIMITS, others, strict=False))
    if len(_allowed(decisive)) > 1:
        decisive.append((LIMITS[-1], brightest if skull < SKULL else NAN))
    looks = _allowed(decisive)
    words = " or ".join(TITLES[each] for each in looks) or "none of the four"
    if name not in looks:
        verdict, start = "wrong", f"looks like {words}, not {TITLES[name]}"
        shown = [each for each in decisive if name not in each[0].allows(each[1])]
    elif len(looks) == 1:
        verdict, start = "proven", f"looks like {words}"
        shown = [each for each in decisive if each[0].allows(each[1]) != _ALL]
    else:
        verdict, start = "not provable", f"may be {words}"
        shown = [each for each in decisive if each[0].allows(each[1]) == _ALL]
    reason = f"{start}: {', '.join(limits.tell(name, value) for limits, value in shown)}"
    return ModalityIdentity(name, verdict, looks, reason, patients, figures)


def _allowed(figures: Sequence[tuple[Limits, float]]) -> list[str]:
    allowed = _ALL.intersection(*(limits.allows(value) for limits, value in figures))
    return [name for name in MODALITIES if name in allowed]


def measure(
    images: NDArray[np.generic],
    modalities: Sequence[str],
    labels: Labels | None = None,
    *,
    mirror_axis: int = 0,
) -> dict[str, Figures]:
    """Measure each modality of one patient.

    ``images`` are (M, S, H, W) in any units; the head is looked for on the first modality.
    ``labels`` (S, H, W) are canonical, None where unknown. Left and right lie along
    ``mirror_axis`` of a slice.
    """
    if labels is None:
        labels = np.zeros(images.shape[1:], np.uint8)
    count = images.shape[1]  # slices are taken evenly from the middle 70 %
    first, last = int(0.15 * count), max(int(0.85 * count) - 1, int(0.15 * count))
    chosen = np.unique(np.linspace(first, last, MAX_SLICES).round().astype(np.intp))
    pairs = ((np.ascontiguousarray(images[:, i], np.float32), labels[i]) for i in chosen)
    table = np.array([_measure_slice(*pair, mirror_axis) for pair in pairs])  # (S, M, figures)
    slices = int(np.isfinite(table[:, 0, -1]).sum())
    found = {}
    for name, rows in zip(modalities, np.moveaxis(table, 1, 0), strict=True):
        figures = Figures._make([*map(median, rows.T), slices])
        found[name] = figures._replace(bright_tail=median(rows[:, 3], 0.9))
    return found


def _measure_slice(images: Image, labels: Labels, mirror_axis: int) -> list[list[float]]:
    """``Figures`` of each modality of a slice: (M, 5)."""
    head, depth = find_head(images[0])
    inside = depth > RIM
    healthy = inside & (labels == 0)
    if np.count_nonzero(healthy) < MIN_TISSUE * labels.size / 4:
        return [[NAN] * 5 for _ in images]
    oedema = labels == OEDEMA
    if (labels == UNKNOWN_PART).any():  # its edge is taken for oedema
        below, (low, high) = _depth(labels > 0), (share * max(labels.shape) for share in EDGE)
        oedema = (below > low) & (below <= high)
    other = (labels > 0) & (labels != ENHANCING)
    rows = []
    for image in images:
        quarter, middle, three_quarters = np.percentile(image[healthy], (25, 50, 75))
        spread = (three_quarters - quarter) / 1.349 or NAN
        enhancement = _median_in(image, labels == ENHANCING) - _median_in(image, other)
        rows.append(
            [
                _symmetric_tail(image, head, healthy, mirror_axis),
                (_median_in(image, oedema) - middle) / spread,
                enhancement / spread,
                (np.percentile(image[inside], 99.9) - middle) / spread,
                _skull_fall(image, depth, image[inside]),
            ]
        )
    return rows


def find_head(image: Image) -> tuple[Region, Image]:
    """Find the head in a slice (H, W): its largest connected part with holes filled.

    And the depth (H, W) below its outline, in √area. Both are empty where it shows too little.
    """
    low, high = np.percentile(image, (1, 99))
    filled = np.zeros(image.shape, np.uint8)
    if high > low:
        smooth = cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape))
        bright = (smooth > low + 0.12 * (high - low)).astype(np.uint8)
        outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(filled, sorted(outlines, key=cv2.contourArea)[-1:], -1, 1, cv2.FILLED)
    area = int(np.count_nonzero(filled))
    if area < MIN_TISSUE * image.size:
        filled[:] = 0
    return filled.astype(np.bool_), _depth(filled) / np.float32(math.sqrt(max(area, 1)))


def median(values: Sequence[float] | NDArray[np.float64], share: float = 0.5) -> float:
    """Median, or another quantile, of the values that are not NaN; NaN where there are none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.quantile(known, share)) if known else NAN


def _median_in(image: Image, region: Region) -> float:
    enough = np.count_nonzero(region) >= MIN_REGION * image.size
    return float(np.median(image[region])) if enough else NAN


def _depth(region: NDArray[np.generic]) -> Image:
    framed = np.pad(region.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1])


def _symmetric_tail(image: Image, head: Region, healthy: Region, axis: int) -> float:
    """``csf_brightness`` of a slice; rows (columns) are paired about the middle of the head."""
    filled = np.flatnonzero(head.any(axis=1 - axis))
    positions = filled[0] + filled[-1] - np.arange(head.shape[axis])
    partner = np.clip(positions, 0, head.shape[axis] - 1)
    both = healthy & np.take(healthy, partner, axis)
    if np.count_nonzero(both) < MIN_TISSUE * image.size / 8:
        return NAN
    smooth = cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape))
    symmetric = np.minimum(smooth, np.take(smooth, partner, axis))[both]
    low, middle, high = np.percentile(symmetric, (2, 50, 98))
    return float((high + low - 2 * middle) / (high - low)) if high > low else NAN


def _skull_fall(image: Image, depth: Image, inside: NDArray[np.float32]) -> float:
    layers = [
        float(np.median(image[layer]))
        for low, high in itertools.pairwise(SKULL_LAYERS)
        if (layer := (depth > low) & (depth <= high)).any()
    ]
    brightness = float(np.median(inside) - np.percentile(image[::3, ::3], 1))
    return float((np.maximum.accumulate(layers) - layers).max() / max(brightness, 1e-6))

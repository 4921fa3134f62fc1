"""One patient's failure explained: what was measured, the cause it points to, its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from seglab.core.arrays import bounding_box
from seglab.evaluation.metrics import Case, PatientScore
from seglab.evaluation.regions import Bool, Kind, Partition, Space, divide


class Cause(StrEnum):
    """Why a region is wrong, as far as it can be measured."""

    SMALL = "small lesion"
    FAINT = "low contrast"
    VISIBLE = "visible but missed"
    DISTRACTOR = "bright distractor"
    WIDE = "outlined too widely"
    BOUNDARY = "boundary within 2 mm"
    OTHER = "other"


RULES: Final[Mapping[Cause, str]] = {
    Cause.SMALL: "A lesion below 1 ml was missed or outlined poorly: each wrong voxel weighs "
    "heavily. Where the whole tumour is below 1 ml, its rim and stray specks count too. Scattered "
    "slices tell no volume: none of their lesions is called small.",
    Cause.FAINT: "What was missed is less than 1.25 standard deviations brighter than the "
    "tissue around it, or what was added is within one of the tumour's own brightness.",
    Cause.VISIBLE: "What was missed is 1.25 standard deviations or more brighter than the tissue "
    "around it: the image shows it, and the network has not learnt it.",
    Cause.DISTRACTOR: "A false alarm that reaches farther than 5 mm from any tumour, of 80 % "
    "probability or brighter than the tissue around it. Where it touches the tumour, of 80 % and "
    "1.25 standard deviations brighter.",
    Cause.WIDE: "What was added touches the tumour, and is like neither the tumour nor a bright "
    "structure beside it.",
    Cause.BOUNDARY: "Within 2 mm (one pixel, where that is more) of the true surface, and not "
    "the rim of a larger error: about what two experts differ by.",
    Cause.OTHER: "No other rule fits.",
}
"""What each cause means, for a reader."""

# Standard deviations; of 18 volumes of BraTS 2020, whole tumours measure 1.7 and more in 17.
FAINT: Final = 1.25
ALIKE: Final = 1.0  # standard deviations, as the next
BRIGHT: Final = 0.5
FAR: Final = 5.0  # mm or px
CONFIDENT: Final = 0.8
RING: Final = (2.0, 7.0)  # mm or px: nearer is blurred into the region, beyond is elsewhere
MOST_SLICES: Final = 7  # spread evenly over a region's; more would not change the contrast
FEWEST_RING_VOXELS: Final = 30


@dataclass(frozen=True)
class Finding:
    """One region of wrong voxels."""

    kind: Kind
    voxels: int
    share: float  # of the patient's wrong voxels, and so of the Dice that was lost
    volume: float  # mm³ or px³
    first_slice: int  # positions in the full stack
    last_slice: int
    peak_slice: int  # the one with the most wrong pixels
    contrast: float  # mean brightness above the tissue around it, in its standard deviations
    likeness: float  # the same against the patient's true tumour; NaN without one
    confidence: float  # 95th percentile of the network's tumour probability
    distance: float  # mm or px: how far it reaches from the truth (false lesion: nearest point)
    cause: Cause
    lost_dice: float  # what it cost the patient; 0 where the patient has no Dice


@dataclass(frozen=True)
class Explanation:
    """A patient, what went wrong, and why."""

    score: PatientScore
    unit: str  # mm or px
    is_volume: bool  # False where only scattered slices of it are there
    rim: float  # depth of the boundary
    lesions: int  # separate ones in the truth, specks left out
    tumour_volume: float  # mm³ or px³
    tumour_contrast: float  # as ``Finding.contrast``, of the whole truth; NaN without tumour
    highest_probability: float
    findings: tuple[Finding, ...]  # costliest first
    shares: Mapping[Cause, float]  # of the wrong voxels, largest first; 1 in all, or empty

    @property
    def cause(self) -> Cause | None:
        """The one of the largest share; None where nothing is wrong."""
        return next(iter(self.shares), None)

    @property
    def lost_dice(self) -> float:
        """1 - Dice; 0 where the patient has no Dice."""
        return _lost(self.score)


def explain(case: Case) -> Explanation:
    """Explain what went wrong in one patient, given on the native grid."""
    space = Space.of(case)
    tissue = _Tissue(case, space)
    partition = divide(tissue.truth, tissue.prediction, space)
    found = _findings(tissue, partition, _lost(case.score))
    findings = sorted(found, key=lambda finding: -finding.voxels)
    shares: dict[Cause, float] = {}
    for finding in findings:
        shares[finding.cause] = shares.get(finding.cause, 0.0) + finding.share
    return Explanation(
        score=case.score,
        unit=space.unit,
        is_volume=space.is_volume,
        rim=space.rim,
        lesions=partition.lesions,
        tumour_volume=tissue.tumour_volume,
        tumour_contrast=tissue.tumour_contrast,
        highest_probability=float(case.probability.max(initial=0)) / 255,
        findings=tuple(findings),
        shares=dict(sorted(shares.items(), key=lambda item: -item[1])),
    )


def _lost(score: PatientScore) -> float:
    return 1 - score.dice if np.isfinite(score.dice) else 0.0


class _Tissue:
    """The part of a patient that holds truth, prediction and what lies around them: (s, h, w)."""

    def __init__(self, case: Case, space: Space) -> None:
        truth, prediction = case.truth != 0, case.prediction != 0
        marked = truth | prediction
        healthy = (case.image > 0) & ~marked
        levels = case.image[healthy]
        self.mean = float(levels.mean()) if levels.size else np.nan
        self.deviation = max(float(levels.std()), 1.0) if levels.size else 1.0
        self.space = space
        box = _widened(bounding_box(marked) or (slice(0, 1),) * 3, space)
        self.image, self.probability = case.image[box], case.probability[box]
        self.truth, self.prediction, self.healthy = truth[box], prediction[box], healthy[box]
        self.slice_indices = case.slice_indices[box[0]]
        self.tumour_volume = float(np.count_nonzero(truth)) * space.voxel
        everything = (slice(None),) * 3
        self.tumour_contrast = self.contrast(self.truth, everything) if truth.any() else np.nan

    def contrast(self, mask: Bool, box: tuple[slice, ...]) -> float:
        """Compare the mean brightness of ``mask``, within ``box``, with the healthy ring around it.

        The ring lies in the same slices, which need not share a scale with others; without one the
        whole patient's tissue stands in.
        """
        from scipy.ndimage import distance_transform_edt

        image, healthy = self.image[box], self.healthy[box]
        present = np.flatnonzero(mask.any(axis=(1, 2)))
        chosen = present[np.linspace(0, len(present) - 1, MOST_SLICES).round().astype(int)]
        inside, around = [], []
        for index in np.unique(chosen):
            away = distance_transform_edt(~mask[index], sampling=self.space.step[1:])
            inside.append(image[index][mask[index]])
            around.append(image[index][healthy[index] & (away > RING[0]) & (away <= RING[1])])
        level, ring = float(np.concatenate(inside).mean()), np.concatenate(around)
        if ring.size < FEWEST_RING_VOXELS:
            return (level - self.mean) / self.deviation
        return (level - float(ring.mean())) / max(float(ring.std()), 1.0)


def _widened(box: tuple[slice, ...], space: Space) -> tuple[slice, ...]:
    margin = [int(np.ceil(RING[1] / step)) for step in space.step]
    return tuple(
        slice(max(0, side.start - by), side.stop + by) for side, by in zip(box, margin, strict=True)
    )


def _findings(tissue: _Tissue, partition: Partition, lost: float) -> Iterator[Finding]:
    from scipy.ndimage import find_objects

    wrong = int(np.count_nonzero(partition.labels))
    tumour = float(tissue.image[tissue.truth].mean()) if tissue.truth.any() else np.nan
    boxes = find_objects(partition.labels)
    for number, (kind, box) in enumerate(zip(partition.kinds, boxes, strict=True), start=1):
        wider = _widened(box, tissue.space)
        mask = partition.labels[wider] == number
        per_slice = mask.sum(axis=(1, 2))
        voxels = int(per_slice.sum())
        indices = tissue.slice_indices[wider[0]]
        marked = indices[per_slice > 0]
        reach = partition.reach[wider][mask]
        found = Finding(
            kind=kind,
            voxels=voxels,
            share=voxels / wrong,
            volume=voxels * tissue.space.voxel,
            first_slice=int(marked[0]),
            last_slice=int(marked[-1]),
            peak_slice=int(indices[per_slice.argmax()]),
            contrast=tissue.contrast(mask, wider),
            likeness=(float(tissue.image[wider][mask].mean()) - tumour) / tissue.deviation,
            confidence=float(np.percentile(tissue.probability[wider][mask], 95)) / 255,
            distance=float(reach.min() if kind == "false lesion" else reach.max()),
            cause=Cause.OTHER,
            lost_dice=lost * voxels / wrong,
        )
        yield replace(found, cause=_cause(found, tissue))


def _cause(region: Finding, tissue: _Tissue) -> Cause:
    is_small = region.kind == "missed lesion" and region.volume < tissue.space.small_lesion
    if region.kind in ("boundary", "scattered"):
        is_small = 0 < tissue.tumour_volume < tissue.space.small_lesion
    if region.kind == "small lesion" or is_small:
        return Cause.SMALL
    if region.kind == "boundary":
        return Cause.BOUNDARY
    if region.kind in ("missed lesion", "missed part"):
        return Cause.FAINT if region.contrast < FAINT else Cause.VISIBLE
    far, confident = region.distance > FAR, region.confidence >= CONFIDENT
    if region.kind == "false lesion" and far and (confident or region.contrast >= BRIGHT):
        return Cause.DISTRACTOR
    if region.kind == "false part":
        if far and confident and region.contrast >= FAINT:
            return Cause.DISTRACTOR
        alike = abs(region.likeness) < ALIKE or tissue.tumour_contrast < FAINT
        return Cause.FAINT if alike else Cause.WIDE
    return Cause.OTHER

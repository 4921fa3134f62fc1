"""What is measured on each wrong region, and on the patient as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.case import Case
from seglab.evaluation.failures.consistency import doubtful_pairs, neighbour_overlap
from seglab.evaluation.failures.intensity import IntensityRange
from seglab.evaluation.failures.location import HeadFrame
from seglab.evaluation.failures.regions import Kind
from seglab.evaluation.failures.space import Bool, Box, Space

RING: Final = (2.0, 7.0)
"""mm or px: tissue nearer than 2 is blurred into the region, beyond 7 it is elsewhere."""
MOST_SLICES: Final = 7
"""Spread evenly over a region's slices; more would not change the contrast."""
FEWEST_RING_VOXELS: Final = 30
END_SHARE: Final = 0.1
"""Share of the brain's slices that counts as an end of the stack, at the top and below."""
FEWEST_SLICES: Final = 10
"""A shorter or broken stack has no ends that could be told."""


@dataclass(frozen=True)
class RegionEvidence:
    """Measurements on one region of wrong voxels."""

    kind: Kind
    voxels: int
    share: float
    """Of the patient's wrong voxels, and so of the Dice that was lost."""
    volume: float
    """mm³ or px³."""
    first_slice: int
    last_slice: int
    peak_slice: int
    """Positions in the full stack; ``peak_slice`` has the most wrong pixels."""
    contrast: float
    """Mean brightness above the tissue around it, in standard deviations of that tissue."""
    likeness: float
    """Mean brightness against the patient's true tumour, in the same unit; NaN without one."""
    confidence: float
    """95th percentile of the network's tumour probability."""
    distance: float
    """mm or px: how far it reaches from the truth (nearest point, for a false lesion)."""
    at_ends: float
    """Share of its voxels in the end slices of the brain."""
    side: str
    """Of the patient's head, such as "left anterior"; empty in the middle."""


@dataclass(frozen=True)
class PatientEvidence:
    """Measurements on the whole patient."""

    unit: str
    rim: float
    """Depth of the boundary, see :class:`Space`."""
    lesions: int
    """Separate lesions in the truth."""
    tumour_volume: float
    """mm³ or px³."""
    tumour_contrast: float
    """As ``RegionEvidence.contrast``, of the whole truth; NaN without tumour."""
    truth_overlap: float
    """Least overlap of neighbouring slices of the truth that were doubted, and of the prediction
    there; NaN where none was, or only a slice left empty between two."""
    predicted_overlap: float
    intensity_excess: float
    """See :meth:`IntensityRange.excess`; NaN where the training range is unknown."""
    out_of_range: bool


@dataclass(frozen=True)
class Tissue:
    """A cut of a patient, with the levels of the whole patient's healthy tissue.

    All arrays are (s, h, w), the same cut of the patient's (S, H, W).
    """

    space: Space
    image: NDArray[np.uint8]
    probability: NDArray[np.uint8]
    healthy: Bool
    """Brain that neither truth nor prediction calls tumour."""
    slice_indices: NDArray[np.int32]
    ends: Bool
    """(s,), see :func:`end_slices`."""
    head: HeadFrame
    mean: float
    deviation: float
    """Of healthy tissue, in grey levels."""
    tumour_mean: float
    """Of the truth; NaN without tumour."""

    @classmethod
    def of(cls, case: Case, space: Space) -> Tissue:
        """Describe the whole patient."""
        tumour = case.truth != 0
        healthy = (case.image > 0) & ~tumour & (case.prediction == 0)
        pixels = case.image[healthy]
        return cls(
            space=space,
            image=case.image,
            probability=case.probability,
            healthy=healthy,
            slice_indices=case.slice_indices,
            ends=end_slices(case),
            head=HeadFrame.of(case.image, case.upright),
            mean=float(pixels.mean()) if pixels.size else math.nan,
            deviation=max(float(pixels.std()), 1.0) if pixels.size else 1.0,
            tumour_mean=float(case.image[tumour].mean()) if tumour.any() else math.nan,
        )

    def cut(self, box: Box) -> Tissue:
        """Keep what lies in ``box``."""
        return replace(
            self,
            image=self.image[box],
            probability=self.probability[box],
            healthy=self.healthy[box],
            slice_indices=self.slice_indices[box[0]],
            ends=self.ends[box[0]],
            head=self.head.cut(box),
        )

    def contrast(self, mask: Bool) -> float:
        """Compare the mean brightness of ``mask`` (s, h, w) with the healthy ring around it.

        The ring lies in the same slices, up to :data:`MOST_SLICES` of them: slices of one
        file need not share a scale, and a reader compares within a slice.
        """
        present = np.flatnonzero(mask.any(axis=(1, 2)))
        chosen = present[np.linspace(0, len(present) - 1, MOST_SLICES).round().astype(int)]
        inside, around = [], []
        for index in np.unique(chosen):
            inside.append(self.image[index][mask[index]])
            around.append(self.image[index][self._ring(mask[index]) & self.healthy[index]])
        region, ring = np.concatenate(inside), np.concatenate(around)
        if ring.size < FEWEST_RING_VOXELS:
            return (float(region.mean()) - self.mean) / self.deviation
        return (float(region.mean()) - float(ring.mean())) / max(float(ring.std()), 1.0)

    def _ring(self, mask: Bool) -> Bool:
        from scipy.ndimage import distance_transform_edt

        distance = distance_transform_edt(~mask, sampling=self.space.step[1:])
        return np.asarray((distance > RING[0]) & (distance <= RING[1]))


def margin(space: Space) -> tuple[int, int, int]:
    """Voxels to keep around tumour and prediction so that every ring fits in."""
    slices, rows, columns = (int(np.ceil(RING[1] / step)) for step in space.step)
    return slices, rows, columns


def measure_region(
    tissue: Tissue, mask: Bool, reach: NDArray[np.float32], kind: Kind, wrong_voxels: int
) -> RegionEvidence:
    """Measure one region of the ``wrong_voxels``.

    Args:
        tissue: the patient, cut to the region and what a ring around it needs.
        mask: (s, h, w) of the region.
        reach: (s, h, w), see :class:`Partition`.
        kind: what kind of region it is.
        wrong_voxels: of the whole patient.
    """
    per_slice = mask.sum(axis=(1, 2))
    present = np.flatnonzero(per_slice)
    first, last, peak = tissue.slice_indices[[present[0], present[-1], per_slice.argmax()]]
    voxels = int(per_slice.sum())
    level = float(tissue.image[mask].mean())
    return RegionEvidence(
        kind=kind,
        voxels=voxels,
        share=voxels / wrong_voxels,
        volume=voxels * tissue.space.voxel,
        first_slice=int(first),
        last_slice=int(last),
        peak_slice=int(peak),
        contrast=tissue.contrast(mask),
        likeness=(level - tissue.tumour_mean) / tissue.deviation,
        confidence=float(np.percentile(tissue.probability[mask], 95)) / 255,
        distance=float(reach[mask].min() if kind == "false lesion" else reach[mask].max()),
        at_ends=float(per_slice[tissue.ends].sum() / voxels),
        side=tissue.head.side(mask),
    )


def measure_patient(
    case: Case,
    tissue: Tissue,
    lesions: int,
    doubted: bool,
    training_range: IntensityRange | None,
) -> PatientEvidence:
    """Measure what concerns the patient as a whole.

    Args:
        case: the patient.
        tissue: the same patient's, uncut.
        lesions: how many separate ones the truth has.
        doubted: whether some slices of the truth do not line up.
        training_range: None where it is not known.
    """
    tumour = case.truth != 0
    truth, predicted = math.nan, math.nan
    if doubted:
        truth, predicted = _worst_overlap(case, tissue.space)
    return PatientEvidence(
        unit=tissue.space.unit,
        rim=tissue.space.rim,
        lesions=lesions,
        tumour_volume=float(np.count_nonzero(tumour)) * tissue.space.voxel,
        tumour_contrast=tissue.contrast(tumour) if tumour.any() else math.nan,
        truth_overlap=truth,
        predicted_overlap=predicted,
        intensity_excess=training_range.excess(case.image) if training_range else math.nan,
        out_of_range=training_range is not None and training_range.excludes(case.image),
    )


def _worst_overlap(case: Case, space: Space) -> tuple[float, float]:
    """Overlap in truth and in prediction of the doubted pair whose truth overlaps least."""
    truth, prediction = case.truth != 0, case.prediction != 0
    pairs = doubtful_pairs(truth, prediction, space)
    if not pairs.size:
        return math.nan, math.nan
    overlap = neighbour_overlap(truth)
    worst = pairs[overlap[pairs].argmin()]
    return float(overlap[worst]), float(neighbour_overlap(prediction)[worst])


def end_slices(case: Case) -> NDArray[np.bool_]:
    """Mark the slices (S,) in the outer tenth of the brain, on either side."""
    brain = np.flatnonzero(case.image.any(axis=(1, 2)))
    ends = np.zeros(len(case.image), dtype=bool)
    if brain.size < FEWEST_SLICES or (np.diff(case.slice_indices) != 1).any():
        return ends
    depth = max(1, round(END_SHARE * brain.size))
    ends[: brain[depth - 1] + 1] = True
    ends[brain[-depth] :] = True
    return ends

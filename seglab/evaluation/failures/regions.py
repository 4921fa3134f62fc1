"""Every wrong voxel belongs to exactly one region, and every region is one kind of failure.

Since 1 - Dice = (FP + FN) / (2·TP + FP + FN), each wrong voxel of a patient costs the same
Dice. A partition of the wrong voxels is therefore a partition of the lost Dice, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.failures.consistency import inconsistent_slices
from seglab.evaluation.failures.space import Bool, Space

Kind = Literal[
    "false lesion",
    "inconsistent slices",
    "missed lesion",
    "small lesion",
    "missed part",
    "false part",
    "boundary",
    "scattered",
]

Labels = NDArray[np.int32]
Distances = NDArray[np.float32]

SMALL_LESION: Final = 1000.0
"""mm³ or px³, a sphere of 12 mm across: near RANO's limit of measurable disease (10 mm)."""
MISSED_RECALL: Final = 0.1
"""A lesion of which less than this share was found counts as missed."""
SPECK: Final = 10
"""Voxels; a smaller piece is no region of its own."""


@dataclass(frozen=True)
class Partition:
    """The wrong voxels of a patient, divided."""

    labels: Labels
    """(S, H, W); 0 where prediction and truth agree, else the number of a region."""
    kinds: tuple[Kind, ...]
    """Kind of region 1, 2, …"""
    reach: Distances
    """(S, H, W): how deep a missed voxel lies in the truth, or how far a false one outside."""
    lesions: int
    """Separate lesions in the truth, specks left out."""


class _Builder:
    """Hands out regions; what one has taken, no later one gets."""

    def __init__(self, wrong: Bool) -> None:
        self.free = wrong.copy()
        self.labels = np.zeros(wrong.shape, dtype=np.int32)
        self.kinds: list[Kind] = []

    def take(self, mask: Bool, kind: Kind, fewest: int = SPECK) -> None:
        mask = mask & self.free
        if np.count_nonzero(mask) < fewest:
            return
        self.kinds.append(kind)
        self.labels[mask] = len(self.kinds)
        self.free &= ~mask


def divide(truth: Bool, prediction: Bool, space: Space) -> Partition:
    """Divide the wrong voxels of one patient; the first rule that fits takes a voxel.

    1. false lesions: predicted pieces farther than 2 mm from every lesion
    2. slices in which the truth does not line up with its neighbours
    3. missed lesions, and small lesions outlined poorly
    4. missed parts and false parts: pieces deeper than 2 mm, with their rims
    5. the boundary: what else lies within 2 mm (or a pixel) of the truth's surface
    6. scattered specks

    Args:
        truth: (S, H, W).
        prediction: (S, H, W).
        space: the patient's grid.
    """
    missed, false = truth & ~prediction, prediction & ~truth
    reach = np.zeros(truth.shape, dtype=np.float32)
    reach[missed] = space.distances(missed, ~truth)
    reach[false] = space.distances(false, truth)
    build = _Builder(missed | false)
    pieces, lesions = space.label(prediction), space.label(truth)
    _take_false_lesions(build, *pieces, reach, space.rim)
    doubtful = np.zeros(len(truth), dtype=bool)
    doubtful[inconsistent_slices(truth, prediction, space)] = True
    build.take(np.broadcast_to(doubtful[:, None, None], truth.shape), "inconsistent slices")
    _take_lesions(build, *lesions, pieces[0], space)
    _take_parts(build, missed, reach, space, "missed part")
    _take_parts(build, false, reach, space, "false part")
    build.take(reach <= space.rim, "boundary", fewest=1)
    build.take(build.free, "scattered", fewest=1)
    sizes = np.bincount(lesions[0].ravel())[1:]
    return Partition(build.labels, tuple(build.kinds), reach, int((sizes >= SPECK).sum()))


def _take_false_lesions(
    build: _Builder, pieces: Labels, count: int, reach: Distances, rim: float
) -> None:
    nearest = np.full(count + 1, np.inf, dtype=np.float32)
    inside = pieces > 0
    np.minimum.at(nearest, pieces[inside], reach[inside])
    sizes = np.bincount(pieces[inside], minlength=count + 1)
    for piece in np.flatnonzero((nearest > rim) & (sizes >= SPECK)):
        build.take(pieces == piece, "false lesion")


def _take_lesions(
    build: _Builder, lesions: Labels, count: int, pieces: Labels, space: Space
) -> None:
    sizes = np.bincount(lesions.ravel(), minlength=count + 1)
    hits = np.bincount(lesions[pieces > 0], minlength=count + 1)
    small = sizes * space.voxel < SMALL_LESION
    for number in range(1, count + 1):
        lesion = lesions == number
        if hits[number] < MISSED_RECALL * sizes[number]:
            build.take(lesion, "missed lesion")
        elif small[number] and sizes[number] >= SPECK:
            drawn = np.isin(pieces, np.unique(pieces[lesion & (pieces > 0)]))
            touched = np.unique(lesions[drawn])
            shared_with_large = not small[touched[touched > 0]].all()
            build.take(lesion if shared_with_large else lesion | drawn, "small lesion")


def _take_parts(build: _Builder, wrong: Bool, reach: Distances, space: Space, kind: Kind) -> None:
    free = wrong & build.free
    core = free & (reach > space.rim)
    part = np.zeros_like(core)
    part[free] = space.distances(free, core) <= space.rim
    labels, count = space.label(part)
    for piece in range(1, count + 1):
        build.take(labels == piece, kind)

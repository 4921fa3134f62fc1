"""Every wrong voxel of a patient belongs to exactly one region, which has one kind.

A region's share of the wrong voxels is its share of the lost Dice: what causes cost adds up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.lesions import label_pieces
from seglab.evaluation.metrics import Case
from seglab.evaluation.surface import distances

Bool = NDArray[np.bool_]
Labels = NDArray[np.int32]
Lesion = Literal["false lesion", "missed lesion", "small lesion"]
Kind = Lesion | Literal["missed part", "false part", "boundary", "scattered"]

# Where spacing is unknown, a slice is taken to be as thick as five pixels are wide: the usual
# shape of a clinical FLAIR voxel. Distances are then in pixels.
UNKNOWN_SLICE_STEP_PX: Final = 5.0
RIM: Final = 2.0  # mm or px: two experts differ by as much
SEPARATE: Final = 1e6  # between slices that are not neighbours in the stack
SMALL_LESION: Final = 1000.0  # mm³ or px³: 12 mm across, near RANO's limit of measurable disease
MISSED_RECALL: Final = 0.1  # a lesion of which a smaller share was found counts as missed
SPECK: Final = 10  # voxels; a smaller piece is no region of its own
# Regions of one kind, largest first; the rest is scattered. It bounds the work for the prediction
# of an untrained network.
MOST_PIECES: Final = 30


@dataclass(frozen=True)
class Space:
    """The grid of one patient."""

    step: tuple[float, float, float]  # (slice, row, column) size of a voxel, in ``unit``
    unit: Literal["mm", "px"]
    contiguous: bool  # False where slices are missing: each is then looked at by itself
    is_volume: bool = True  # False too of a single slice: it tells no volume

    @classmethod
    def of(cls, case: Case) -> Space:
        """Describe the grid of ``case``."""
        contiguous = bool((np.diff(case.slice_indices) == 1).all())
        is_volume = contiguous and len(case.slice_indices) > 1
        if case.spacing_mm is None:
            return cls((UNKNOWN_SLICE_STEP_PX, 1.0, 1.0), "px", contiguous, is_volume)
        return cls(case.spacing_mm, "mm", contiguous, is_volume)

    @property
    def voxel(self) -> float:
        """Volume of a voxel in cubic ``unit``."""
        return float(np.prod(self.step))

    @property
    def small_lesion(self) -> float:
        """Volume below which a lesion is small, in cubic ``unit``; 0 where none is known."""
        return SMALL_LESION if self.is_volume else 0.0

    @property
    def rim(self) -> float:
        """Depth of the boundary: 2, or a pixel from corner to corner where that is more."""
        return max(RIM, math.hypot(*self.step[1:]))

    def distances(self, points: Bool, mask: Bool) -> NDArray[np.float64]:
        """See :func:`seglab.evaluation.surface.distances`, in ``unit``."""
        step = self.step if self.contiguous else (SEPARATE, *self.step[1:])
        return distances(points, mask, step)


class Partition:
    """The wrong voxels of a patient, divided; what one region has taken, no later one gets."""

    def __init__(self, truth: Bool, prediction: Bool, space: Space) -> None:
        self.kinds: list[Kind] = []  # of region 1, 2, …
        # (S, H, W); 0 where prediction and truth agree, else the number of a region.
        self.labels: Labels = np.zeros(truth.shape, dtype=np.int32)
        # (S, H, W): how deep a missed voxel lies in the truth, or how far a false one outside.
        self.reach = np.zeros(truth.shape)
        missed, false = truth & ~prediction, prediction & ~truth
        self.reach[missed] = space.distances(missed, ~truth)
        self.reach[false] = space.distances(false, truth)
        self.free = missed | false
        self.lesions = 0  # separate ones in the truth, specks left out

    def take(self, pieces: NDArray[np.integer | np.bool_], kind: Kind, fewest: int = SPECK) -> None:
        """Make the free voxels of each piece (numbered from 1) a region, largest first."""
        pieces = pieces.astype(np.int32, copy=False)
        sizes = np.bincount(pieces[self.free])
        sizes[:1] = 0
        largest = np.argsort(-sizes, kind="stable")[:MOST_PIECES]
        largest = largest[sizes[largest] >= fewest]
        number = np.zeros(pieces.max(initial=0) + 1, dtype=np.int32)
        number[largest] = len(self.kinds) + 1 + np.arange(len(largest))
        region = np.where(self.free, number[pieces], 0)
        self.labels += region
        self.free &= region == 0
        self.kinds += [kind] * len(largest)


def divide(truth: Bool, prediction: Bool, space: Space) -> Partition:
    """Divide the wrong voxels of one patient; the first rule that fits takes a voxel.

    1. false lesions: predicted pieces farther than the rim from every lesion
    2. missed lesions, and small lesions outlined poorly
    3. missed parts and false parts: pieces deeper than the rim, with their own rims
    4. the boundary: what else lies within the rim of the truth's surface
    5. scattered specks
    """
    found = Partition(truth, prediction, space)
    pieces, count = label_pieces(prediction, space.contiguous)
    nearest = np.full(count + 1, np.inf)
    np.minimum.at(nearest, pieces[prediction], found.reach[prediction])
    found.take(np.where(nearest > space.rim, np.arange(count + 1), 0)[pieces], "false lesion")
    _take_lesions(found, truth, pieces, space)
    kinds: tuple[Kind, Kind] = ("missed part", "false part")
    for side, kind in zip((truth, prediction), kinds, strict=True):
        free = side & found.free
        part = np.zeros_like(free)
        part[free] = space.distances(free, free & (found.reach > space.rim)) <= space.rim
        found.take(label_pieces(part, space.contiguous)[0], kind)
    found.take(found.reach <= space.rim, "boundary", fewest=1)
    found.take(found.free, "scattered", fewest=1)
    return found


def _take_lesions(found: Partition, truth: Bool, pieces: Labels, space: Space) -> None:
    """Take lesions of which next to nothing was found, and small ones with what was drawn there."""
    lesions, count = label_pieces(truth, space.contiguous)
    sizes = np.bincount(lesions.ravel(), minlength=count + 1)
    hits = np.bincount(lesions[pieces > 0], minlength=count + 1)
    found.lesions = int(np.count_nonzero(sizes[1:] >= SPECK))
    small = sizes * space.voxel < space.small_lesion
    for number in 1 + np.argsort(-sizes[1:], kind="stable")[:MOST_PIECES]:
        lesion = lesions == number
        if hits[number] < MISSED_RECALL * sizes[number]:
            found.take(lesion, "missed lesion")
        elif small[number]:
            drawn = np.isin(pieces, np.unique(pieces[lesion & (pieces > 0)]))
            of_small_only = small[np.unique(lesions[drawn & truth])].all()
            found.take(lesion | drawn if of_small_only else lesion, "small lesion")

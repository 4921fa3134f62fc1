"""One evaluated patient with everything needed to look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from seglab.evaluation.metrics import PatientScore

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A patient's image, truth and prediction on the native grid; S slices of H×W pixels."""

    patient_id: str
    image: UInt8
    """(S, H, W), 0 is background, 1 to 255 the brain."""
    truth: UInt8
    """(S, H, W) in {0, 1}."""
    probability: UInt8
    """(S, H, W), 0 to 255 for a probability of 0 to 1."""
    prediction: UInt8
    """(S, H, W) in {0, 1}."""
    slice_indices: NDArray[np.int32]
    """(S,) ascending positions in the full stack."""
    spacing_mm: tuple[float, float, float] | None
    """(slice, row, column); None where unknown."""
    upright: bool
    """True where rows run top to bottom; False where a slice is stored on its side."""
    score: PatientScore

    def __post_init__(self) -> None:
        shapes = {
            name: getattr(self, name).shape
            for name in ("image", "truth", "probability", "prediction")
        }
        if len(set(shapes.values())) != 1 or len(self.slice_indices) != self.image.shape[0]:
            raise ValueError(f"case {self.patient_id}: shapes differ: {shapes}")


def best_median_worst(scores: Sequence[PatientScore], count: int) -> dict[str, list[str]]:
    """Name ``count`` patients from each end and from the middle of the Dice ranking.

    Patients without a Dice (no tumour in the truth and none predicted) are left out.
    No patient is named twice: the worst are chosen first, then the best, then the
    median, so that a small set still shows its failures.

    Returns:
        ``{"best": [...], "median": [...], "worst": [...]}`` of patient ids, each list
        ordered from its own end: best first, worst first, nearest the median first.
    """
    ranked = sorted((s for s in scores if np.isfinite(s.dice)), key=lambda s: s.dice)
    ids = [s.patient_id for s in ranked]
    worst = ids[:count]
    best = [name for name in reversed(ids) if name not in worst][:count]
    middle = (len(ids) - 1) / 2
    by_distance = sorted(range(len(ids)), key=lambda rank: abs(rank - middle))
    median = [ids[rank] for rank in by_distance if ids[rank] not in {*worst, *best}][:count]
    return {"best": best, "median": median, "worst": worst}

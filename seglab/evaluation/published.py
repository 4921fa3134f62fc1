"""What others report for whole tumour on BraTS, to see one's own figure in proportion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published Dice, or the range of several."""

    setting: str
    low: float
    high: float
    source: str


PUBLISHED = (
    Published(
        "2-D, FLAIR only, BraTS 2019, hidden validation", 0.81, 0.84, "DeepSeg, Zeineldin 2020"
    ),
    Published("FLAIR only at test, BraTS 2020, 3-D, per volume", 0.869, 0.898, "RFNet to DeMoSeg"),
    Published(
        "all four modalities, BraTS 2020 winner, test", 0.8895, 0.8895, "nnU-Net, Isensee 2020"
    ),
    Published("two human raters, over tumour regions", 0.74, 0.85, "Menze 2015"),
)
CAVEAT = (
    "Other data, other splits, often other inputs: these figures say in what region a result "
    "lies, and not which method is better."
)
IMPLAUSIBLE_DICE = 0.92
"""A 2-D network on FLAIR alone above it has a leak or averages empty slices."""

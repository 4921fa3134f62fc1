"""Where in the head something lies, in the words of a reader: left or right, front or back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.failures.space import Bool, Box

ONE_SIDE: Final = 0.8
"""Share of the pixels beyond the middle, for a side to be named."""


@dataclass(frozen=True)
class HeadFrame:
    """The middle of the brain, in slices that lie as a patient's do."""

    middle: tuple[float, float]
    """(row, column) of the array."""
    upright: bool
    """Whether rows run from front to back, as in ``Case``; else columns do. The patient's
    right comes first along the other axis."""

    @classmethod
    def of(cls, image: NDArray[np.uint8], upright: bool) -> HeadFrame:
        """Find it in (S, H, W), where 0 is background."""
        rows, columns = np.nonzero(np.any(image, axis=0))
        return cls((_middle(rows), _middle(columns)), upright)

    def cut(self, box: Box) -> HeadFrame:
        """Return the frame of the part of the array that lies in ``box``."""
        row, column = (
            middle - (side.start or 0) for middle, side in zip(self.middle, box[1:], strict=True)
        )
        return replace(self, middle=(row, column))

    def side(self, mask: Bool) -> str:
        """Say on which side of the head most of ``mask`` (s, h, w) lies: "left anterior".

        Empty where it lies in the middle both ways.
        """
        area, middle = mask.sum(axis=0), self.middle
        if not self.upright:
            area, middle = area.T, middle[::-1]
        across = _word(area.sum(axis=0), middle[1], ("right", "left"))
        along = _word(area.sum(axis=1), middle[0], ("anterior", "posterior"))
        return " ".join(word for word in (across, along) if word)


def _word(pixels: NDArray[np.integer], middle: float, names: tuple[str, str]) -> str:
    """Name the side of ``middle`` that has most of the pixels, if one has."""
    beyond = pixels[np.arange(len(pixels)) > middle].sum() / max(pixels.sum(), 1)
    if beyond >= ONE_SIDE:
        return names[1]
    return names[0] if beyond <= 1 - ONE_SIDE else ""


def _middle(positions: NDArray[np.intp]) -> float:
    return float(positions.min() + positions.max()) / 2 if positions.size else 0.0

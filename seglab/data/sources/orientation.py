"""How a NIfTI volume lies, and the way to the axes of BraTS and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

AXES = ("L", "P", "S")
"""Where the axes of a BraTS array point to."""


@dataclass(frozen=True)
class Turn:
    """Between the axes of a file and those of BraTS."""

    axes: str
    """Where those of the file point to: "LPS" if it lies as BraTS does."""
    there: NDArray[Any]
    back_again: NDArray[Any]

    @property
    def is_needed(self) -> bool:
        """Whether the file lies otherwise than BraTS."""
        return self.axes != "".join(AXES)

    def forth(self, stack: NDArray[Any]) -> NDArray[Any]:
        """(S, H, W) as stored to (S, H, W) as BraTS lies."""
        return _oriented(stack, self.there)

    def back(self, stack: NDArray[Any]) -> NDArray[Any]:
        """The inverse."""
        return _oriented(stack, self.back_again)

    def spacing(self, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
        """Reorder (slice, row, column)."""
        stored = (spacing_mm[1], spacing_mm[2], spacing_mm[0])
        turned = [0.0, 0.0, 0.0]
        for axis, (target, _) in enumerate(self.there):
            turned[int(target)] = stored[axis]
        return turned[2], turned[0], turned[1]


def _oriented(stack: NDArray[Any], transform: NDArray[Any]) -> NDArray[Any]:
    from nibabel.orientations import apply_orientation

    turned = apply_orientation(np.moveaxis(stack, 0, -1), transform)
    return np.asarray(np.moveaxis(turned, -1, 0))


def turn_to_brats(path: Path) -> Turn | None:
    """How to turn a file; None where its header states no orientation."""
    from nibabel.orientations import axcodes2ornt, ornt2axcodes, ornt_transform

    here, brats = _orientation(path), axcodes2ornt(AXES)
    if here is None:
        return None
    axes = "".join(ornt2axcodes(here))
    return Turn(axes, ornt_transform(here, brats), ornt_transform(brats, here))


def _orientation(path: Path) -> NDArray[Any] | None:
    from nibabel.loadsave import load
    from nibabel.orientations import io_orientation

    image: Any = load(path)
    affine, header = image.affine, image.header
    stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    # The identity is what is written where nobody knew better.
    if not stated or np.array_equal(affine, np.eye(4)) or not np.isfinite(affine).all():
        return None
    if np.linalg.matrix_rank(affine[:3, :3]) < 3:
        return None
    here: NDArray[Any] = io_orientation(affine)
    return None if np.isnan(here).any() else here

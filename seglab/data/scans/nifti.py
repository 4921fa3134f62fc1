"""NIfTI scans of any orientation; the mask has the scan's own grid, affine and header.

The volume is turned to the axes of BraTS (left, posterior, superior) and its mask is
turned back, so that a scan gives the same mask however it was stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.data.scans.base import Bool, Pixels, Scan, written
from seglab.data.sources.files import finite_image
from seglab.data.sources.nifti import read_nifti

AXES = ("L", "P", "S")
"""Where the axes of a BraTS array point to."""


class NiftiScan(Scan):
    """A 3-D NIfTI volume; its mask has the same grid, affine and header."""

    upright = False
    shared_scale = True

    def read(self) -> Pixels:
        """Read the volume; see ``Scan``."""
        (path,) = self.files
        values, spacing_mm = read_nifti(path)
        turn = _turn(path)
        remarks = () if turn else ("orientation is not stated in the header: taken as stored",)
        image = finite_image(path, values)
        if turn is not None:
            image = np.ascontiguousarray(turn.forth(image))
            spacing_mm = None if spacing_mm is None else turn.spacing(spacing_mm)
        count = len(image)
        return Pixels(image, np.arange(count, dtype=np.int32), count, spacing_mm, remarks)

    def write(self, mask: Bool, pixels: Pixels, folder: Path) -> Path:
        """Write a NIfTI mask; see ``Scan``."""
        from nibabel.loadsave import load

        (path,) = self.files
        turn = _turn(path)
        stored = mask if turn is None else turn.back(mask)
        image: Any = load(path)
        header = image.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        if header["cal_max"]:  # how bright the image was shown; a mask would be black
            header["cal_min"], header["cal_max"] = 0, 1
        data = np.ascontiguousarray(np.moveaxis(stored, 0, -1), np.uint8)
        suffix = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
        # Without an affine of its own the header's stays, with its codes.
        return save_nifti(type(image)(data, None, header), folder / f"{self.name}_pred{suffix}")


def save_nifti(image: Any, target: Path) -> Path:
    """Write a NIfTI image; the suffix decides whether it is compressed."""
    from nibabel.loadsave import save

    return written(target, lambda path: save(image, path))


@dataclass(frozen=True)
class _Turn:
    """Between the axes of a file and those of BraTS."""

    there: NDArray[Any]
    back_again: NDArray[Any]

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


def _turn(path: Path) -> _Turn | None:
    """How to turn a file; None where its header states no orientation."""
    from nibabel.loadsave import load
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image: Any = load(path)
    affine, header = image.affine, image.header
    stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    # The identity is what is written where nobody knew better.
    if not stated or np.array_equal(affine, np.eye(4)) or not np.isfinite(affine).all():
        return None
    here = io_orientation(affine)
    if np.isnan(here).any():
        return None
    brats = axcodes2ornt(AXES)
    return _Turn(ornt_transform(here, brats), ornt_transform(brats, here))

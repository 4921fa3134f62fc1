"""NIfTI scans of any orientation; the mask has the scan's own grid, affine and header.

The volume is turned to the axes of BraTS (left, posterior, superior) and its mask is
turned back, so that a scan gives the same mask however it was stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seglab.data.scans.base import Bool, Pixels, Scan, written
from seglab.data.sources.files import finite_image
from seglab.data.sources.nifti import is_gzipped, read_nifti
from seglab.data.sources.orientation import turn_to_brats


class NiftiScan(Scan):
    """A 3-D NIfTI volume; its mask has the same grid, affine and header."""

    upright = False
    shared_scale = True

    def read(self) -> Pixels:
        """Read the volume; see ``Scan``."""
        (path,) = self.files
        values, spacing_mm = read_nifti(path)
        turn = turn_to_brats(path)
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
        turn = turn_to_brats(path)
        stored = mask if turn is None else turn.back(mask)
        image: Any = load(path)
        header = image.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        if header["cal_max"]:  # how bright the image was shown; a mask would be black
            header["cal_min"], header["cal_max"] = 0, 1
        data = np.ascontiguousarray(np.moveaxis(stored, 0, -1), np.uint8)
        suffix = ".nii.gz" if is_gzipped(path) else ".nii"
        # Without an affine of its own the header's stays, with its codes.
        return save_nifti(type(image)(data, None, header), folder / f"{self.name}_pred{suffix}")


def save_nifti(image: Any, target: Path) -> Path:
    """Write a NIfTI image; the suffix decides whether it is compressed."""
    from nibabel.loadsave import save

    return written(target, lambda path: save(image, path))

"""Scans as slice files of the Kaggle layout."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from seglab.core.errors import UserError
from seglab.data.scans.base import Bool, Image, Pixels, Scan, refuse_mixed
from seglab.data.scans.nifti import save_nifti
from seglab.data.sources.brats_h5 import SPACING_MM, STACK_SIZE, BratsH5, slice_spacing
from seglab.data.sources.files import finite_image
from seglab.data.sources.hdf5 import numeric_dataset, reading

NAME = re.compile(r"(volume_\d{1,6})_slice_(\d{1,4})\.h5", re.IGNORECASE)


class H5Scan(Scan):
    """Slices of the Kaggle layout; the mask is a NIfTI volume of the full stack."""

    upright = False
    shared_scale = False

    def read(self) -> Pixels:
        """Read FLAIR, channel 0, of every slice; see ``Scan``."""
        images = [_read_h5(path) for path in self.files]
        refuse_mixed(self.files, images)
        matches = [NAME.fullmatch(path.name) for path in self.files]
        numbers = [int(match[2]) if match else place for place, match in enumerate(matches)]
        spacing_mm = slice_spacing(self.files[0])
        whole = round(STACK_SIZE / spacing_mm[0]) if matches[0] else 1
        stack = max(numbers[-1] + 1, whole)
        remarks = []
        if len(numbers) < stack:
            remarks.append(f"{len(numbers)} of {stack} slices are there; the others have no mask")
        indices = np.array(numbers, np.int32)
        return Pixels(np.stack(images), indices, stack, spacing_mm, tuple(remarks))

    def write(self, mask: Bool, pixels: Pixels, folder: Path) -> Path:
        """Write a NIfTI mask with the axes of BraTS; see ``Scan``."""
        from nibabel.nifti1 import Nifti1Image

        _, height, width = mask.shape
        data = np.zeros((height, width, pixels.stack_size), np.uint8)
        data[:, :, pixels.slice_indices] = np.moveaxis(mask, 0, -1)
        step, row, column = pixels.spacing_mm or SPACING_MM
        affine = np.diag([-row, -column, step, 1.0])
        affine[1, 3] = column * (width - 1)
        return save_nifti(Nifti1Image(data, affine), folder / f"{self.name}_pred.nii.gz")


def _read_h5(path: Path) -> Image:
    channels = len(BratsH5.channel_names)
    with reading(path) as file:
        dataset = numeric_dataset(file, "image", path)
        if dataset.shape[2] != channels:
            raise UserError(f"{path} holds {dataset.shape[2]} image channels; expected {channels}")
        return finite_image(path, dataset[..., BratsH5.default_channel])

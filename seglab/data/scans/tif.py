"""Scans as TIFF slices, or as the pages of one file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.scans.base import Bool, Image, Pixels, Scan, refuse_mixed, written
from seglab.data.sources.files import finite_image
from seglab.data.sources.lgg_tif import LggTif
from seglab.data.sources.tiff import pixels, reading_tiff

NAME = re.compile(r"(.+)_(\d{1,4})\.tiff?", re.IGNORECASE)
MODES = ("RGB", "L", "I;16", "I", "F")


class TifScan(Scan):
    """TIFF slices, or the pages of one file; the mask is one TIFF of as many pages."""

    upright = True
    shared_scale = True

    def read(self) -> Pixels:
        """Read FLAIR: the second of three channels, or the only one; see ``Scan``."""
        images = [page for path in self.files for page in _read_tif(path)]
        refuse_mixed(self.files, images)
        matches = [NAME.fullmatch(path.name) for path in self.files]
        if len(self.files) > 1:  # each of one page, see ``has_pages``
            numbers = [int(match[2]) for match in matches if match]
        else:
            numbers = list(range(len(images)))
        indices = np.array(numbers, np.int32) - numbers[0]
        remarks = ("spacing is not in the files: no volume in millilitres",)
        return Pixels(np.stack(images), indices, int(indices[-1]) + 1, None, remarks)

    def write(self, mask: Bool, pixels: Pixels, folder: Path) -> Path:
        """Write pages of 0 and 255; see ``Scan``."""
        from PIL import Image as Pillow

        target = folder / f"{self.name}_pred.tif"
        pages = [Pillow.fromarray(page.astype(np.uint8) * 255) for page in mask]
        return written(
            target, lambda path: pages[0].save(path, save_all=True, append_images=pages[1:])
        )


def has_pages(path: Path) -> bool:
    """Whether one file is a stack by itself; False for one that cannot be read."""
    try:
        with reading_tiff(path) as file:
            return int(getattr(file, "n_frames", 1)) > 1
    except UserError:  # told when the scan is read
        return False


def _read_tif(path: Path) -> list[Image]:
    return [
        finite_image(path, page[..., LggTif.default_channel] if page.ndim == 3 else page)
        for page in _pages(path)
    ]


def _pages(path: Path) -> list[NDArray[Any]]:
    """Read every page: (H, W), or (H, W, 3) where it has three channels."""
    from PIL import ImageSequence

    with reading_tiff(path) as file:
        pages, first = [], file.size
        for page in ImageSequence.Iterator(file):
            if page.size != first:
                raise UserError(f"{path} has pages of {first} and of {page.size} pixels")
            if page.mode not in MODES:
                raise UserError(f"{path} has pixels of kind {page.mode}; one of {MODES}")
            pages.append(pixels(page))
        return pages

"""From the scratch files of all patients to the arrays of a cache folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from seglab.core.progress import progress
from seglab.data.cache.files import IMAGES, MASKS, NATIVE_MASKS, SLICES, HashedFile, Json
from seglab.data.cache.geometry import (
    Box,
    bounding_box,
    cached_shape,
    cut,
    place,
    resize_images,
    resize_masks,
)
from seglab.data.cache.part import Part, Pixels, read_part
from seglab.data.cache.settings import CacheSettings


def assemble(folder: Path, parts: Sequence[Part], settings: CacheSettings) -> Json:
    """Write the arrays of all parts in their order, and remove the scratch files.

    Returns:
        ``shape``, ``files`` and ``patients`` of the index.

    Raises:
        OSError: the folder cannot be written.
    """
    shape = cached_shape((part.extent for part in parts), settings)
    boxes = [place(part.extent, shape, settings) for part in parts]
    scaled = any((box.height, box.width) != shape for box in boxes)
    with ExitStack() as stack:
        writer = _Writer(folder, stack, shape, scaled)
        jobs = zip(parts, boxes, strict=True)
        for part, box in progress(jobs, "packing", total=len(parts), unit="patient"):
            writer.add(part, box)
            part.path.unlink()
    return {
        "shape": [writer.rows, *shape],
        "files": {file.path.name: file.entry() for file in writer.files},
        "patients": writer.patients,
    }


class _Writer:
    """The open files of a folder that grows patient by patient."""

    def __init__(
        self, folder: Path, stack: ExitStack, shape: tuple[int, int], scaled: bool
    ) -> None:
        self.shape = shape
        self.rows = 0
        self.patients: list[Json] = []
        names = (IMAGES, MASKS, SLICES, *([NATIVE_MASKS] if scaled else []))
        self.files = [stack.enter_context(HashedFile(folder / name)) for name in names]

    def add(self, part: Part, box: Box) -> None:
        """Append one patient."""
        pixels, content = read_part(part), part.extent.content
        images, masks, slices, *native = self.files
        window = _shifted(box, -content.y0, -content.x0)
        images.write(resize_images(cut(pixels.image, window), self.shape))
        masks.write(np.packbits(resize_masks(cut(pixels.mask, window), self.shape), axis=-1))
        slices.write(pixels.slices)
        tumour = bounding_box(pixels.mask.view(np.bool_))
        offset = native[0].bytes if native else 0
        for file in native:
            file.write(np.packbits(cut(pixels.mask, tumour)))
        self.patients.append(
            {
                **_describe(part, pixels),
                "box": list(box),
                "first": self.rows,
                "tumour_box": list(_shifted(tumour, content.y0, content.x0)),
                "tumour_offset": offset,
            }
        )
        self.rows += len(pixels.slices)


def _describe(part: Part, pixels: Pixels) -> Json:
    return {
        "patient_id": part.patient_id,
        "grade": part.grade,
        "spacing_mm": None if part.spacing_mm is None else list(part.spacing_mm),
        "native_shape": list(part.extent.frame),
        "stack_size": part.stack_size,
        "count": len(pixels.slices),
    }


def _shifted(box: Box, down: int, right: int) -> Box:
    return box._replace(y0=box.y0 + down, x0=box.x0 + right)

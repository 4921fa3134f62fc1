"""From the scratch files of all patients to the arrays of a cache folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.progress import progress
from seglab.data.cache.files import HashedFile, Json
from seglab.data.cache.geometry import (
    Box,
    bounding_box,
    cached_shape,
    cut,
    place,
    resize_images,
    resize_masks,
)
from seglab.data.cache.index import IMAGES, MASKS, NATIVE_MASKS, SLICES
from seglab.data.cache.part import Part, load_arrays, read_pixels, save_arrays
from seglab.data.cache.settings import CacheSettings
from seglab.data.workers import Workers

Shape = tuple[int, int]
Packed = tuple[NDArray[Any], ...]
"""What is appended to each file: images, masks, rows of slices, native masks."""


def assemble(folder: Path, parts: Sequence[Part], settings: CacheSettings, pool: Workers) -> Json:
    """Write the arrays of all parts in their order, and remove the scratch files.

    Returns:
        ``shape``, ``files`` and ``patients`` of the index.

    Raises:
        OSError: the folder cannot be written.
    """
    shape = cached_shape((part.extent for part in parts), settings)
    jobs = [(part, place(part.extent, shape, settings)) for part in parts]
    scaled = any((box.height, box.width) != shape for _, box in jobs)
    names = (IMAGES, MASKS, SLICES, *([NATIVE_MASKS] if scaled else []))
    with ExitStack() as stack:
        files = [stack.enter_context(HashedFile(folder / name)) for name in names]
        entries = stack.enter_context(closing(pool.map(partial(pack, shape=shape), jobs)))
        shown = progress(entries, "packing", total=len(jobs), unit="patient")
        patients = _append(files, parts, shown)
    return {
        "shape": [sum(patient["count"] for patient in patients), *shape],
        "files": {file.path.name: file.entry() for file in files},
        "patients": patients,
    }


def pack(job: tuple[Part, Box], shape: Shape) -> Json:
    """Bring a part to its final form, in its scratch file; runs in a worker.

    Returns:
        The patient's entry of the index, without its place in the files.

    Raises:
        OSError: the scratch file cannot be written.
    """
    part, box = job
    pixels, content = read_pixels(part.path), part.extent.content
    window = _shifted(box, -content.y0, -content.x0)
    tumour = bounding_box(pixels.mask.view(np.bool_))
    packed: Packed = (
        resize_images(cut(pixels.image, window), shape),
        np.packbits(resize_masks(cut(pixels.mask, window), shape), axis=-1),
        pixels.slices,
        np.packbits(cut(pixels.mask, tumour)),
    )
    save_arrays(part.path, packed)
    return {
        "patient_id": part.patient_id,
        "grade": part.grade,
        "spacing_mm": None if part.spacing_mm is None else list(part.spacing_mm),
        "native_shape": list(part.extent.frame),
        "stack_size": part.stack_size,
        "count": len(pixels.slices),
        "box": list(box),
        "tumour_box": list(_shifted(tumour, content.y0, content.x0)),
    }


def _append(
    files: Sequence[HashedFile], parts: Sequence[Part], entries: Iterable[Json]
) -> list[Json]:
    patients: list[Json] = []
    rows = native_bytes = 0
    for part, entry in zip(parts, entries, strict=True):
        packed = load_arrays(part.path, 4)
        part.path.unlink()
        patients.append({**entry, "first": rows, "tumour_offset": native_bytes})
        for file, array in zip(files, packed, strict=False):
            file.write(array)
        rows += entry["count"]
        native_bytes += len(packed[-1])
    return patients


def _shifted(box: Box, down: int, right: int) -> Box:
    return box._replace(y0=box.y0 + down, x0=box.x0 + right)

"""What one worker does: read a patient, normalise it, leave it in a scratch file.

The window that all patients share is known only after the last was read, so a part
keeps native pixels, cropped to its own brain and mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.cache.geometry import Box, Extent, bounding_box, cut
from seglab.data.cache.index import SLICE_ROW
from seglab.data.cache.settings import CacheSettings
from seglab.data.normalise import brain_mask, quantise
from seglab.data.sources import Patient, Source, Volume


@dataclass(frozen=True)
class Part:
    """A patient that was read; its pixels are in ``path``."""

    patient_id: str
    grade: str | None
    spacing_mm: tuple[float, float, float] | None
    stack_size: int
    extent: Extent
    path: Path


@dataclass(frozen=True)
class BadPatient:
    """A patient that cannot be read, and why."""

    patient_id: str
    reason: str


@dataclass(frozen=True)
class Pixels:
    """Content of a part: native pixels of the patient's own content box (S, h, w)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    slices: NDArray[Any]
    """(S,) of ``SLICE_ROW``."""


def make_part(
    job: tuple[Patient, Path], source: Source, settings: CacheSettings
) -> Part | BadPatient:
    """Read and quantise one patient.

    Raises:
        OSError: the scratch file cannot be written.
    """
    patient, path = job
    try:
        volume = source.read(patient, (source.modality,))
    except UserError as error:
        return BadPatient(patient.patient_id, str(error))
    content, pixels = condense(volume, source.keeps_volume_scale, settings)
    save_arrays(path, (pixels.image, np.packbits(pixels.mask, axis=-1), pixels.slices))
    _, height, width = volume.image.shape
    return Part(
        patient_id=volume.patient_id,
        grade=volume.grade,
        spacing_mm=volume.spacing_mm,
        stack_size=volume.stack_size,
        extent=Extent((height, width), content),
        path=path,
    )


def read_pixels(path: Path) -> Pixels:
    """Read back what ``make_part`` left in its scratch file."""
    image, packed, slices = load_arrays(path, 3)
    return Pixels(image, np.unpackbits(packed, axis=-1, count=image.shape[-1]), slices)


def save_arrays(path: Path, arrays: Iterable[NDArray[Any]]) -> None:
    """Write arrays one after the other.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        for array in arrays:
            np.save(file, array)


def load_arrays(path: Path, count: int) -> tuple[NDArray[Any], ...]:
    """Read what ``save_arrays`` has written."""
    with path.open("rb") as file:
        return tuple(np.load(file) for _ in range(count))


def condense(volume: Volume, shared_scale: bool, settings: CacheSettings) -> tuple[Box, Pixels]:
    """Normalise a volume and cut it to its content, the box around brain and mask."""
    brain = brain_mask(volume.image, shared_scale=shared_scale)
    content = bounding_box(brain | volume.mask.view(np.bool_))
    image, mask = cut(volume.image, content), cut(volume.mask, content)
    brain = cut(brain, content)
    q, scale = quantise(image, brain, settings.normalise, settings.normalise_scope)
    slices = np.empty(len(q), SLICE_ROW)
    slices["slice_index"] = volume.slice_indices
    # Plane by plane: along axes count_nonzero adds integers, over an array it counts bytes.
    slices["tumour_px"] = [np.count_nonzero(plane) for plane in mask]
    slices["brain_px"] = [np.count_nonzero(plane) for plane in brain]
    slices["offset"], slices["step"] = scale.T
    return content, Pixels(q, mask, slices)

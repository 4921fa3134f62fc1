"""One volume by itself, prepared exactly as the cache prepares it: for prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.data.cache.geometry import (
    Box,
    Extent,
    cached_shape,
    cut,
    paste,
    place,
    resize_images,
)
from seglab.data.cache.part import condense
from seglab.data.cache.settings import CacheSettings
from seglab.data.cache.store import CachedPatient
from seglab.data.sources import Volume


@dataclass(frozen=True)
class SingleVolume:
    """A volume as a cache of one patient would hold it; the names are those of ``Cache``."""

    images: NDArray[np.uint8]
    """(S, h, w), 0 is background."""
    row_patient: NDArray[np.int32]
    row_slice: NDArray[np.int32]
    row_brain_px: NDArray[np.int32]
    """(S,) native brain pixels of each slice."""
    patient: CachedPatient

    def native_image(self) -> NDArray[np.uint8]:
        """Return the levels on the native grid, for pictures: (S, H, W)."""
        box = self.patient.box
        window = resize_images(self.images, (box.height, box.width))
        return paste(window, box, self.patient.native_shape)


def prepare_single(
    volume: Volume, settings: CacheSettings, shape: tuple[int, int], *, shared_scale: bool
) -> SingleVolume:
    """Normalise, crop and scale one volume.

    Args:
        volume: its mask decides nothing if it is empty, as it is where no truth is known.
        settings: those of the cache that the network was trained on.
        shape: (h, w) of that cache's slices. A larger brain gets a larger window, so that
            nothing of it is lost.
        shared_scale: whether the slices share one intensity scale (not in ``brats-h5``).
    """
    content, pixels = condense(volume, shared_scale, settings)
    _, height, width = volume.image.shape
    extent = Extent((height, width), content)
    needed = cached_shape([extent], settings)
    shape = (max(shape[0], needed[0]), max(shape[1], needed[1]))
    box = place(extent, shape, settings)
    window = box._replace(y0=box.y0 - content.y0, x0=box.x0 - content.x0)
    slices = pixels.slices
    count = len(volume.image)
    return SingleVolume(
        images=resize_images(cut(pixels.image, window), shape),
        row_patient=np.zeros(count, np.int32),
        row_slice=slices["slice_index"].astype(np.int32),
        row_brain_px=slices["brain_px"].astype(np.int32),
        patient=_patient(volume, box, slices),
    )


def _patient(volume: Volume, box: Box, slices: NDArray[Any]) -> CachedPatient:
    _, height, width = volume.image.shape
    return CachedPatient(
        patient_id=volume.patient_id,
        grade=volume.grade,
        spacing_mm=volume.spacing_mm,
        native_shape=(height, width),
        box=box,
        first=0,
        count=len(slices),
        stack_size=volume.stack_size,
        slice_indices=slices["slice_index"].astype(np.int32),
        tumour_px=slices["tumour_px"].astype(np.int32),
        brain_px=slices["brain_px"].astype(np.int32),
        tumour_box=Box(0, 0, 0, 0),
        tumour_offset=0,
    )

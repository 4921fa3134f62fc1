"""A cache, opened: slices by row, patients by name, masks on both grids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.data.cache.files import Json, read_index
from seglab.data.cache.geometry import Box, paste, resize_images
from seglab.data.cache.index import (
    IMAGES,
    MASKS,
    NATIVE_MASKS,
    SLICE_ROW,
    SLICES,
    PatientEntry,
)

UInt8 = NDArray[np.uint8]
Ints = NDArray[np.int32]
Rows = NDArray[np.int64] | slice


@dataclass(frozen=True, eq=False)
class CachedPatient:
    """One patient's rows, and where they came from."""

    patient_id: str
    grade: str | None
    spacing_mm: tuple[float, float, float] | None
    """(slice, row, column), or None where unknown."""
    native_shape: tuple[int, int]
    """(H, W) of the source's slices."""
    box: Box
    """Native window behind the cached slices."""
    first: int
    """First row in the cache's arrays."""
    count: int
    """Rows, one a slice."""
    stack_size: int
    """Slices of the full stack."""
    slice_indices: Ints
    """(count,) ascending positions in the full stack."""
    tumour_px: Ints
    """(count,) tumour pixels of each slice, native."""
    brain_px: Ints
    """(count,) brain pixels of each slice, native."""
    tumour_box: Box
    """Native window around all tumour, where the exact mask is stored."""
    tumour_offset: int
    """First byte of that mask in its file."""

    @property
    def rows(self) -> slice:
        """Rows of the patient in the cache's arrays."""
        return slice(self.first, self.first + self.count)

    @property
    def contiguous(self) -> bool:
        """Whether the slices follow one another without a gap."""
        return bool(np.all(np.diff(self.slice_indices) == 1))


class Cache:
    """A read-only, memory-mapped cache folder; processes share it through the page cache.

    Attributes:
        path: the folder.
        source: name of the data source.
        upright, mirror_axis: how its slices lie, see ``Source``.
        settings: crop, scale, normalisation and channel, see ``CacheSettings``.
        skipped: (patient id, reason) of those left out as unreadable.
        data_hash: SHA-256 of the content, the same on every machine.
        images: (N, h, w) uint8, 0 is background.
        masks_packed: (N, h, ceil(w / 8)) uint8, eight pixels a byte.
        patients: in the order of their rows.
        row_slice, row_tumour_px, row_brain_px: (N,) int32, as in ``CachedPatient``.
        scale: (N, 2) float32; ``offset + q * step`` gives back the source's units.

    Raises:
        UserError: a file is absent, unreadable or changed.
    """

    def __init__(self, path: Path) -> None:
        index = read_index(path)
        self.path = path
        self.source = index.source
        self.upright = index.upright
        self.mirror_axis: int = index.mirror_axis
        self.settings: Json = index.settings
        self.skipped = tuple(index.skipped)
        self.data_hash = index.data_hash
        sizes: dict[str, int] = {name: entry.bytes for name, entry in index.files.items()}
        self.bytes = sum(sizes.values())
        count, height, width = index.shape
        self.images = self._map(IMAGES, (count, height, width))
        self.masks_packed = self._map(MASKS, (count, height, -(-width // 8)))
        self._native_bytes = sizes.get(NATIVE_MASKS, 0)
        self._read_slices(np.fromfile(path / SLICES, SLICE_ROW))
        self.patients = tuple(self._patient(entry) for entry in index.patients)
        self.by_id = {patient.patient_id: patient for patient in self.patients}

    def masks(self, rows: Rows) -> UInt8:
        """Unpack the masks of some rows: (n, h, w) in {0, 1}."""
        return np.unpackbits(self.masks_packed[rows], axis=-1, count=self.images.shape[2])

    def native_mask(self, patient: CachedPatient) -> UInt8:
        """Return the source's own mask, exactly: (S, H, W) in {0, 1}."""
        if self._native_bytes == 0:
            return paste(self.masks(patient.rows), patient.box, patient.native_shape)
        shape = (patient.count, patient.tumour_box.height, patient.tumour_box.width)
        size = int(np.prod(shape))
        packed = self._native_masks[patient.tumour_offset :][: -(-size // 8)]
        window = np.unpackbits(packed, count=size).reshape(shape)
        return paste(window, patient.tumour_box, patient.native_shape)

    def native_image(self, patient: CachedPatient) -> UInt8:
        """Return the cached image on the native grid, for pictures: (S, H, W) uint8."""
        box = patient.box
        window = resize_images(self.images[patient.rows], (box.height, box.width))
        return paste(window, box, patient.native_shape)

    @cached_property
    def row_patient(self) -> Ints:
        """(N,) index into ``patients`` of each row."""
        counts = [patient.count for patient in self.patients]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @cached_property
    def _native_masks(self) -> UInt8:
        return self._map(NATIVE_MASKS, (self._native_bytes,))

    def _map(self, name: str, shape: tuple[int, ...]) -> UInt8:
        return np.memmap(self.path / name, np.uint8, "r", shape=shape)

    def _read_slices(self, table: NDArray[Any]) -> None:
        columns = ("slice_index", "tumour_px", "brain_px")
        copies = (np.ascontiguousarray(table[name], np.int32) for name in columns)
        self.row_slice, self.row_tumour_px, self.row_brain_px = copies
        self.scale = np.stack((table["offset"], table["step"]), axis=1)

    def _patient(self, entry: PatientEntry) -> CachedPatient:
        rows = slice(entry.first, entry.first + entry.count)
        return CachedPatient(
            patient_id=entry.patient_id,
            grade=entry.grade,
            spacing_mm=entry.spacing_mm,
            native_shape=entry.native_shape,
            box=Box(*entry.box),
            first=entry.first,
            count=entry.count,
            stack_size=entry.stack_size,
            slice_indices=self.row_slice[rows],
            tumour_px=self.row_tumour_px[rows],
            brain_px=self.row_brain_px[rows],
            tumour_box=Box(*entry.tumour_box),
            tumour_offset=entry.tumour_offset,
        )


def open_cache(path: Path) -> Cache:
    """Open a cache folder that ``prepare`` has written.

    Raises:
        UserError: a file is absent, unreadable or changed.
    """
    return Cache(path)

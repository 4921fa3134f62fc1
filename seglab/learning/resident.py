"""Training slices that stay on the device, where reading a batch is one indexed copy."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
import torch

from seglab.data.cache import Cache
from seglab.data.loader import Rows, neighbours, patient_rows
from seglab.learning.augment.transform import Slices
from seglab.learning.device import to_device

LARGEST_SHARE = 0.4
"""Of the memory that is free before the first step; networks need the rest."""

WORKERS_PER_GPU = "SEGLAB_WORKERS_PER_GPU"
"""Environment variable: processes among which a GPU's share is divided, 1 without it."""

_CHUNK = 512


class ResidentSlices:
    """Every slice of some patients on the device, masks still packed eight pixels a byte.

    Args:
        cache: opened cache.
        patients: their ids.
        device: where to.
    """

    def __init__(self, cache: Cache, patients: Iterable[str], device: torch.device) -> None:
        self.cache, self.device = cache, device
        kept = kept_rows(cache, patients)
        self._position = np.full(len(cache.row_slice), -1, np.int64)
        self._position[kept] = np.arange(len(kept))
        self._images = [_upload(image, kept, device) for image in cache.images]
        self._masks = _upload(cache.masks_packed, kept, device)
        # numpy.packbits puts the first pixel into the highest bit.
        self._shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)

    def slices(self, rows: Rows, context: int) -> Slices:
        """Read slices with their neighbours as channels, and their masks."""
        wanted = np.stack([rows, *neighbours(self.cache, rows, context)])
        index = to_device(torch.from_numpy(self._position[wanted]), self.device)
        channels = [image.index_select(0, each) for image in self._images for each in index[1:]]
        packed = self._masks.index_select(0, index[0])
        bits = (packed[..., None] >> self._shifts) & 1
        masks = bits.flatten(2)[:, None, :, : self.cache.shape[1]]
        return torch.stack(channels, dim=1).float(), masks.float()


def kept_rows(cache: Cache, patients: Iterable[str]) -> Rows:
    """Rows of all slices of the patients, ascending."""
    return np.sort(np.concatenate([patient_rows(cache.by_id[name]) for name in patients]))


def fits(cache: Cache, patients: Iterable[str], device: torch.device) -> bool:
    """Whether the patients' slices leave the device enough memory to train in."""
    if device.type != "cuda":
        return True
    kept = kept_rows(cache, patients)
    slice_bytes = sum(math.prod(a.shape[1:]) for a in (*cache.images, cache.masks_packed))
    share = LARGEST_SHARE / int(os.environ.get(WORKERS_PER_GPU, "1"))
    return bool(len(kept) * slice_bytes <= share * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process can have, with what earlier runs left to its allocator."""
    free, _ = torch.cuda.mem_get_info(device)
    kept_by = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free) + kept_by


def _upload(array: np.ndarray, rows: Rows, device: torch.device) -> torch.Tensor:
    """Copy rows in chunks, so that the processor's memory never holds them all."""
    out = torch.empty((len(rows), *array.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(rows), _CHUNK):
        chunk = torch.from_numpy(np.asarray(array[rows[start : start + _CHUNK]]))
        out[start : start + len(chunk)] = chunk
    return out

"""The Kaggle set of BraTS 2020 slices: ``volume_<V>_slice_<S>.h5``.

Each file holds ``image`` (240, 240, 4) float64, every channel z-scored over the
whole slice with its background, and ``mask`` (240, 240, 3) uint8, one plane per
tumour part. Slice S is z index S of the challenge's NIfTI volume V, neither
flipped nor transposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.core.tables import read_rows
from seglab.data.sources.base import Patient, Source, Volume
from seglab.data.sources.files import (
    binary_mask,
    check_same_shape,
    finite_image,
    same_name,
)
from seglab.data.sources.hdf5 import numeric_dataset, reading, stated_spacing
from seglab.data.sources.planes import read_planes

if TYPE_CHECKING:
    import h5py

STACK_SIZE = 155
"""Slices of a BraTS volume."""
SPACING_MM = (1.0, 1.0, 1.0)
"""Of every BraTS volume; the files of the set state none."""
LISTINGS = ("meta_data.csv", "BraTS20 Training Metadata.csv")
"""Both names that the set's list of slices has been published under."""
_FILE = re.compile(r"volume_(\d{1,6})_slice_(\d{1,4})\.h5")

Key = tuple[int, int]
"""(volume, slice)"""


@SOURCES.register("brats-h5")
class BratsH5(Source):
    """BraTS 2020 as the Kaggle slice files volume_<V>_slice_<S>.h5.

    The root may be any folder above the files. Neither the CSVs nor all of the
    slices need be there.
    """

    name = "brats-h5"
    channel_names = ("FLAIR", "T1", "T1ce", "T2")
    default_channel = 0
    plane_names = ("necrosis", "oedema", "enhancing")
    upright = False
    mirror_axis = 0
    keeps_volume_scale = False

    def patients(self) -> list[Patient]:
        """List the volumes that have at least one slice; see ``Source``."""
        if not self._files:
            raise UserError(f"{self.root} holds no file named volume_<V>_slice_<S>.h5")
        slices: dict[int, list[Path]] = {}
        for (volume, _), path in sorted(self._files.items()):
            slices.setdefault(volume, []).append(path)
        return [self._patient(volume, tuple(files)) for volume, files in slices.items()]

    def read(self, patient: Patient) -> Volume:
        """Read the image channel and the merged mask of each slice; see ``Source``."""
        indices = [_key(path.name)[1] for path in patient.files]
        read = [_read_slice(path, self.channel) for path in patient.files]
        shape = read[0][0].shape
        for path, (image, _) in zip(patient.files, read, strict=True):
            if image.shape != shape:
                raise UserError(f"{path} has the shape {image.shape}; its volume has {shape}")
        return Volume(
            patient_id=patient.patient_id,
            image=np.stack([image for image, _ in read]),
            mask=np.stack([mask for _, mask in read]),
            slice_indices=np.array(indices, dtype=np.int32),
            stack_size=patient.stack_size or max(indices) + 1,
            spacing_mm=slice_spacing(patient.files[0]),
            grade=patient.grade,
        )

    def missing_files(self) -> list[str]:
        """Slices that a CSV lists, or without one those skipped by the numbering."""
        expected = self._listed or _up_to_last(self._files)
        return [f"volume_{v}_slice_{s}.h5" for v, s in sorted(expected - self._files.keys())]

    def read_channels(self, path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read image (4, H, W) and mask planes (3, H, W) of one slice; see ``Source``."""
        with reading(path) as file:
            image, mask = _datasets(file, path)
            return (
                finite_image(path, np.moveaxis(image[...], -1, 0)),
                binary_mask(path, np.moveaxis(mask[...], -1, 0)),
            )

    @cached_property
    def _files(self) -> dict[Key, Path]:
        found: dict[Key, Path] = {}
        for path in self._paths:
            if not _FILE.fullmatch(path.name):
                continue
            volume, index = key = _key(path.name)
            if key in found:
                raise same_name(found[key], path, f"slice {index} of volume {volume}")
            found[key] = path
        return found

    @cached_property
    def _listed(self) -> set[Key]:
        listings = [path for path in self._paths if path.name in LISTINGS]
        return {key for path in listings for key in _listed_slices(path)}

    @cached_property
    def _last_listed(self) -> dict[int, int]:
        return dict(sorted(self._listed))

    def _patient(self, volume: int, files: tuple[Path, ...]) -> Patient:
        patient_id = f"BraTS20_Training_{volume:03d}"
        last = self._last_listed.get(volume, STACK_SIZE - 1)
        stack_size = max(last, _key(files[-1].name)[1]) + 1
        return Patient(patient_id, files, self.names.grade(patient_id), stack_size)


def _key(file_name: str) -> Key:
    match = _FILE.fullmatch(file_name)
    assert match is not None, file_name
    return int(match[1]), int(match[2])


def _up_to_last(found: Iterable[Key]) -> set[Key]:
    last = dict(sorted(found))
    return {(volume, index) for volume, end in last.items() for index in range(end)}


def _listed_slices(path: Path) -> set[Key]:
    """Keys of the file names in ``slice_path``, whose folders are of another machine."""
    rows = read_rows(path, "slice_path")
    names = (re.split(r"[/\\]", row.get("slice_path", ""))[-1] for row in rows)
    return {_key(name) for name in names if _FILE.fullmatch(name)}


def _read_slice(path: Path, channel: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read one channel (H, W) and the merged mask (H, W) of a file."""
    with reading(path) as file:
        image, mask = _datasets(file, path)
        # One channel only: its chunks are the only ones inflated.
        (pixels,) = finite_image(path, read_planes(image, channel, 1))
        planes = binary_mask(path, read_planes(mask, 0, mask.shape[2]))
    return pixels, reduce(np.bitwise_or, planes)


def slice_spacing(path: Path) -> tuple[float, float, float]:
    """Return (slice, row, column) of a file's volume, as ``Volume`` holds it."""
    with reading(path) as file:
        return stated_spacing(numeric_dataset(file, "image", path), path) or SPACING_MM


def _datasets(file: h5py.File, path: Path) -> tuple[Any, Any]:
    image = numeric_dataset(file, "image", path)
    mask = numeric_dataset(file, "mask", path)
    channels = len(BratsH5.channel_names)
    if image.shape[2] != channels:
        raise UserError(f"{path} holds {image.shape[2]} image channels; expected {channels}")
    check_same_shape(path, image.shape[:2], mask.shape[:2])
    planes = len(BratsH5.plane_names)
    if mask.shape[2] > planes:
        raise UserError(f"{path} holds {mask.shape[2]} mask planes; expected {planes}")
    return image, mask

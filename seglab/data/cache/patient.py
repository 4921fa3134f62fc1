"""What is done to one patient on its way into the cache, and to one volume for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.cache.files import LABELS, NATIVE_LABELS, SLICES, Json
from seglab.data.cache.geometry import (
    Box,
    Extent,
    bounding_box,
    cached_shape,
    crop,
    place,
    resize_images,
    resize_masks,
)
from seglab.data.cache.store import CachedPatient, CacheSettings, native_levels
from seglab.data.labels import TARGETS, target_mask
from seglab.data.normalise import brain_mask, quantise
from seglab.data.sources import Source
from seglab.data.volume import Patient, Volume

UInt8 = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]
"""Name of a cache's file → what a patient adds to it."""


@dataclass
class Part:
    """A patient that a worker reads into a scratch file, cropped to its brain."""

    patient: Patient
    path: Path
    entry: Json = field(default_factory=dict)
    """Of the cache's index; empty until the labels are read."""
    brains: dict[str, Box] = field(default_factory=dict)
    """Modality → where its brain lies in the native frame."""
    failed: dict[str, str] = field(default_factory=dict)
    """Modality → why it cannot be read."""

    @property
    def extent(self) -> Extent:
        """Frame, and brain of the modality that was read first."""
        return Extent(tuple(self.entry["native_shape"]), next(iter(self.brains.values())))


def read_part(
    part: Part, source: Source, settings: CacheSettings, modalities: Sequence[str]
) -> Part:
    """Read modalities of a patient; the labels, too, with the first if it has no entry.

    Raises:
        OSError: the scratch file cannot be written.
    """
    arrays: Arrays = {}
    for name in modalities:
        is_new = not part.entry
        try:
            volume = source.read(part.patient, (name,), with_labels=is_new)
            _check_grid(volume, part.entry)
        except UserError as error:
            part.failed[name] = str(error)
            if is_new:
                return part
            continue
        part.brains[name], levels, scale, brain_px = normalise(volume, 0, settings)
        arrays |= {name: levels, f"{name}.scale": scale}
        if is_new:
            part.entry, labels, counts = _base(volume)
            table: list[Any] = [volume.slice_indices, brain_px, *counts]
            arrays |= {"labels": labels, "table": np.stack(table, axis=1).astype(np.int32)}
    np.savez(part.path, **arrays)  # type: ignore[arg-type]
    return part


def pack_part(part: Part, modalities: Sequence[str], shape: tuple[int, int]) -> Arrays:
    """Bring what :func:`read_part` left to its final form, and remove the scratch file."""
    box, count = Box(*part.entry["box"]), part.entry["count"]
    arrays: Arrays = {}
    with np.load(part.path) as read:
        for name in modalities:
            if name in part.failed:
                levels, scale = (
                    np.zeros((count, *shape), np.uint8),
                    np.zeros((count, 2), np.float32),
                )
            else:
                window = crop(read[name], box.inside(part.brains[name]))
                levels, scale = resize_images(window, shape), read[f"{name}.scale"]
            arrays |= {f"{name}.npy": levels, f"{name}.scale.npy": scale}
        if "labels" in read:
            planes = _planes(read["labels"])
            around = box.inside(Box(*part.entry["tumour_box"]))
            scaled = [resize_masks(crop(plane, around), shape) for plane in planes]
            arrays[LABELS] = np.packbits(np.stack(scaled, axis=1), axis=-1)
            arrays[NATIVE_LABELS] = np.packbits(planes)
            arrays[SLICES] = read["table"]
    part.path.unlink()
    return arrays


def normalise(
    volume: Volume, index: int, settings: CacheSettings
) -> tuple[Box, UInt8, NDArray[np.float32], list[int]]:
    """Bring modality number ``index`` of a volume to levels.

    Returns:
        The box of its brain; levels (S, height, width) in that box, 0 is background; scale
        (S, 2), see :func:`seglab.data.normalise.quantise`; brain pixels of each slice.
    """
    image, shared_scale = volume.images[index], volume.shared_scales[index]
    brain = brain_mask(image, shared_scale=shared_scale)
    content = bounding_box(brain)
    brain = crop(brain, content)
    scope, modality = settings.scope(shared_scale), volume.modalities[index]
    levels, scale = quantise(crop(image, content), brain, settings.normalise, scope, modality)
    return content, levels, scale, _count(brain)


def _base(volume: Volume) -> tuple[Json, UInt8, list[list[int]]]:
    """The entry of the index, the labels in the tumour's box, and pixels of each target."""
    box = bounding_box(volume.labels > 0)
    labels = crop(volume.labels, box)
    entry = {
        "patient_id": volume.patient_id,
        "grade": volume.grade,
        "spacing_mm": volume.spacing_mm and list(volume.spacing_mm),
        "native_shape": list(volume.labels.shape[1:]),
        "stack_size": volume.stack_size,
        "count": len(volume.labels),
        "parts_known": volume.parts_known,
        "tumour_box": list(box),
        "native_bytes": -(-labels.size * len(TARGETS) // 8),
        "convention": volume.convention,
        "remarks": list(volume.remarks),
    }
    return entry, labels, [_count(plane) for plane in _planes(labels)]


def _planes(labels: UInt8) -> UInt8:
    """One mask a target: (3, S, H, W) in {0, 1}."""
    return np.stack([target_mask(labels, target) for target in TARGETS])


def _count(planes: NDArray[Any]) -> list[int]:
    # Plane by plane: along axes count_nonzero adds integers, over an array it counts bytes.
    return [int(np.count_nonzero(plane)) for plane in planes]


def _check_grid(volume: Volume, entry: Json) -> None:
    count, *frame = volume.images.shape[1:]
    if entry and [count, frame] != [entry["count"], entry["native_shape"]]:
        shapes = f"{(count, *frame)} and {(entry['count'], *entry['native_shape'])}"
        raise UserError(
            f"{volume.patient_id}: {volume.modalities[0]} and its other modalities have the "
            f"shapes {shapes}"
        )


@dataclass(frozen=True)
class SingleVolume:
    """A volume as a cache of one patient would hold it; the names are those of ``Cache``."""

    images: tuple[UInt8, ...]
    """(S, h, w) of each modality, 0 is background."""
    shape: tuple[int, int]
    row_patient: NDArray[np.int32]
    row_slice: NDArray[np.int32]
    row_brain_px: NDArray[np.int32]
    """(S,) native brain pixels of each slice."""
    patient: CachedPatient

    def native_image(self, modality: int = 0) -> UInt8:
        """Return the levels on the native grid, for pictures: (S, H, W)."""
        return native_levels(self.images[modality], self.patient)


def prepare_single(volume: Volume, settings: CacheSettings, shape: tuple[int, int]) -> SingleVolume:
    """Normalise, crop and scale one volume as the cache does; its labels are not looked at.

    Args:
        volume: the brain of its first modality decides the window.
        settings: those of the cache that the network was trained on.
        shape: (h, w) of that cache's slices. A larger brain gets a larger window, so that
            nothing of it is lost.
    """
    modalities = [normalise(volume, index, settings) for index in range(len(volume.images))]
    extent = Extent(volume.images.shape[2:], modalities[0][0])
    needed = cached_shape([extent], settings)
    shape = (max(shape[0], needed[0]), max(shape[1], needed[1]))
    box = place(extent, shape, settings)
    brain_px = np.array(modalities[0][3], np.int32)
    patient = CachedPatient(
        patient_id=volume.patient_id,
        grade=volume.grade,
        spacing_mm=volume.spacing_mm,
        native_shape=extent.frame,
        stack_size=volume.stack_size,
        parts_known=False,
        box=box,
        tumour_box=Box(0, 0, 0, 0),
        first=0,
        slice_indices=volume.slice_indices,
        tumour_px=np.zeros_like(brain_px),
        whole_px=np.zeros_like(brain_px),
        brain_px=brain_px,
    )
    return SingleVolume(
        images=tuple(
            resize_images(crop(levels, box.inside(content)), shape)
            for content, levels, *_ in modalities
        ),
        shape=shape,
        row_patient=np.zeros(len(brain_px), np.int32),
        row_slice=volume.slice_indices,
        row_brain_px=brain_px,
        patient=patient,
    )

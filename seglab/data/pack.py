"""What is done to one patient on its way into the cache, and to one volume for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import MODALITIES
from seglab.core.errors import UserError
from seglab.data.cache import (
    LABELS,
    NATIVE_LABELS,
    SLICES,
    Cache,
    CachedPatient,
    CacheSettings,
    Json,
    UInt8,
)
from seglab.data.geometry import (
    Box,
    Extent,
    bounding_box,
    cached_shape,
    crop,
    place,
    resize_images,
    resize_masks,
)
from seglab.data.labels import TARGETS, target_mask
from seglab.data.normalise import brain_mask, quantise
from seglab.data.sources.base import Source
from seglab.data.volume import Patient, Volume

Arrays = dict[str, NDArray[Any]]  # name of a cache's file → what a patient adds to it
UNAMBIGUOUS = {"planes", "binary"}  # conventions of labels that can be read in one way only


@dataclass
class Part:
    """A patient that a worker reads into a scratch file, cropped to its brain."""

    patient: Patient
    path: Path
    entry: Json = field(default_factory=dict)  # of the index; empty until labels are read
    remarks: list[str] = field(default_factory=list)
    brains: dict[str, Box] = field(default_factory=dict)  # of each modality, in the frame
    failed: dict[str, str] = field(default_factory=dict)  # modality → why it cannot be read


def read_part(
    part: Part, source: Source, settings: CacheSettings, modalities: Sequence[str]
) -> Part:
    """Read modalities of a patient; the labels, too, with the first if it has no entry."""
    arrays: Arrays = {}
    whole: Volume | None = None
    with suppress(UserError):  # told below, of the modality that cannot be read
        whole = source.read(part.patient, modalities, with_labels=not part.entry)
    for name in modalities:
        is_new = not part.entry
        beside = (*list(part.brains)[:1], name)  # a modality must lie on the others
        try:
            volume = whole or source.read(part.patient, beside, with_labels=is_new)
            _check_grid(volume, part.entry)
        except UserError as error:
            part.failed[name] = str(error)
            if is_new:
                return part
            continue
        index = volume.modalities.index(name)
        part.brains[name], levels, scale, brain_px = _levels(volume, index, settings)
        part.remarks += [text for text in volume.remarks if text not in part.remarks]
        arrays |= {name: levels, f"{name}.scale": scale}
        if is_new:
            if volume.convention not in UNAMBIGUOUS:
                part.remarks.append(f"labels are read as {volume.convention}")
            box = bounding_box(volume.labels > 0)
            labels = crop(volume.labels, box)
            table = [volume.slice_indices, brain_px, *map(_count, _planes(labels))]
            arrays |= {"labels": labels, "table": np.stack(table, axis=1)}
            part.entry = {
                "patient_id": volume.patient_id,
                "grade": volume.grade,
                "spacing_mm": volume.spacing_mm and list(volume.spacing_mm),
                "native_shape": list(volume.labels.shape[1:]),
                "stack_size": volume.stack_size,
                "count": len(volume.labels),
                "parts_known": volume.parts_known,
                "tumour_box": list(box),
                "native_bytes": -(-labels.size * len(TARGETS) // 8),
            }
    np.savez(part.path, **arrays)  # type: ignore[arg-type]
    return part


def pack_part(part: Part, modalities: Sequence[str], shape: tuple[int, int]) -> Arrays:
    """Bring what :func:`read_part` left to its final form, and remove the scratch file."""
    box, count = Box(*part.entry["box"]), part.entry["count"]
    arrays: Arrays = {}
    with np.load(part.path) as read:
        for name in modalities:
            levels, scale = np.zeros((count, *shape), np.uint8), np.zeros((count, 2), np.float32)
            if name in part.brains:
                window = crop(read[name], box.inside(part.brains[name]))
                levels, scale = resize_images(window, shape), read[f"{name}.scale"]
            arrays |= {f"{name}.npy": levels, f"{name}.scale.npy": scale}
        if "labels" in read:
            planes, around = _planes(read["labels"]), box.inside(Box(*part.entry["tumour_box"]))
            scaled = [resize_masks(crop(plane, around), shape) for plane in planes]
            arrays[LABELS] = np.packbits(np.stack(scaled, axis=1), axis=-1)
            arrays[NATIVE_LABELS] = np.packbits(planes)
            arrays[SLICES] = read["table"]
    part.path.unlink()
    return arrays


def _check_grid(volume: Volume, entry: Json) -> None:
    shape = volume.images.shape[1:]
    known = (entry["count"], *entry["native_shape"]) if entry else shape
    if shape != known:
        what = f"{volume.modalities[0]} and its other modalities"
        raise UserError(f"{volume.patient_id}: {what} have the shapes {shape} and {known}")


def _levels(
    volume: Volume, index: int, settings: CacheSettings
) -> tuple[Box, UInt8, NDArray[np.float32], NDArray[np.int32]]:
    """Normalise modality number ``index`` of a volume and crop it to its brain.

    Returns its box; levels and scale, see ``quantise``; pixels of brain (S,).
    """
    image, shared_scale = volume.images[index], volume.shared_scales[index]
    brain = brain_mask(image, shared_scale=shared_scale)
    box = bounding_box(brain)
    brain = crop(brain, box)
    scope = settings.normalise_scope
    if scope == "auto":
        scope = "volume" if shared_scale else "slice"
    modality = volume.modalities[index]
    levels, scale = quantise(crop(image, box), brain, settings.normalise, scope, modality)
    return box, levels, scale, _count(brain)


def _planes(labels: UInt8) -> UInt8:
    """One mask a target: (3, S, H, W) in {0, 1}."""
    return np.stack([target_mask(labels, target) for target in TARGETS])


def _count(planes: NDArray[Any]) -> NDArray[np.int32]:
    # Plane by plane: along axes count_nonzero adds integers, over an array it counts bytes.
    return np.array([np.count_nonzero(plane) for plane in planes], np.int32)


class SingleVolume(Cache):
    """A cache of one volume in memory, for prediction; it has no folder.

    Settings and ``shape`` (h, w) are those of the cache that the network was trained on; a larger
    brain gets a larger window. The first ``inputs`` modalities are its images; of all, the first
    of ``MODALITIES`` decides the window, as in a cache.
    """

    def __init__(
        self, volume: Volume, settings: CacheSettings, shape: tuple[int, int], inputs: int
    ) -> None:
        read = [_levels(volume, index, settings) for index in range(len(volume.images))]
        names = [MODALITIES.index(name) for name in volume.modalities]
        brain, _, _, brain_px = read[names.index(min(names))]
        extent = Extent(volume.images.shape[2:], brain)
        needed = cached_shape([extent], settings)
        self.shape = (max(shape[0], needed[0]), max(shape[1], needed[1]))
        box, nothing = place(extent, self.shape, settings), np.zeros_like(brain_px)
        self.images = tuple(
            resize_images(crop(levels, box.inside(own)), self.shape)
            for own, levels, _, _ in read[:inputs]
        )
        self.row_slice, self.row_brain_px = volume.slice_indices, brain_px
        self.row_patient = nothing
        self._labels = volume.labels
        shared = ("patient_id", "grade", "spacing_mm", "stack_size", "slice_indices")
        self.patient = CachedPatient(
            **{name: getattr(volume, name) for name in shared},
            native_shape=extent.frame,
            parts_known=False,
            box=box,
            tumour_box=Box(0, 0, 0, 0),
            first=0,
            brain_px=brain_px,
            tumour_px=nothing,
            whole_px=nothing,
        )

    def native_mask(self, patient: CachedPatient) -> UInt8:
        """Return the mask of the target: (S, H, W) in {0, 1}."""
        return target_mask(self._labels, self.target).astype(np.uint8)

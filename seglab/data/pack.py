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
from seglab.data.labels import TARGETS, UNLESS, read_as, target_mask
from seglab.data.normalise import brain_mask, quantise
from seglab.data.sources.base import Source
from seglab.data.volume import Patient, Volume, reorder, turn

Arrays = dict[str, NDArray[Any]]  # name of a cache's file → what a patient adds to it
Axes = tuple[str, str]  # of slices in a plane, and of the source's own: ``CacheSettings.axes``
UNAMBIGUOUS = {"planes", "binary"}  # conventions of labels that can be read in one way only


@dataclass
class Part:
    """A patient that a worker reads into a scratch file, cropped to its brain."""

    patient: Patient
    path: Path
    entry: Json = field(default_factory=dict)  # of the index; empty until labels are read
    remarks: list[str] = field(default_factory=list)
    brains: dict[str, Box] = field(default_factory=dict)  # of each modality, in the frame
    extent: Extent | None = None  # of the first modality read with the labels
    failed: dict[str, str] = field(default_factory=dict)  # modality → why it cannot be read


def read_part(
    part: Part, source: Source, settings: CacheSettings, modalities: Sequence[str]
) -> Part:
    """Read modalities of a patient; the labels, too, with the first if it has no entry."""
    arrays: Arrays = {}
    axes = settings.axes(source.upright)
    whole: Volume | None = None
    with suppress(UserError):  # told below, of the modality that cannot be read
        whole = source.read(part.patient, modalities, with_labels=not part.entry)
    for name in modalities:
        is_new = not part.entry
        beside = (*list(part.brains)[:1], name)  # a modality must lie on the others
        try:
            volume = whole or source.read(part.patient, beside, with_labels=is_new)
            _check_grid(volume, part.entry)
            _check_plane(volume, settings)
        except UserError as error:
            part.failed[name] = str(error)
            if is_new:
                return part
            continue
        index = volume.modalities.index(name)
        part.brains[name], levels, scale, brain_px = _levels(volume, index, settings, axes)
        part.remarks += [text for text in volume.remarks if text not in part.remarks]
        arrays |= {name: levels, f"{name}.scale": scale}
        if is_new:
            if volume.convention not in UNAMBIGUOUS:
                told = read_as(volume.convention)
                if not any(text.startswith(told) for text in part.remarks):
                    part.remarks.append(f"{told}; {UNLESS}")
            part.extent = _extent(volume, part.brains[name], axes)
            turned = turn(volume.labels, axes[1], axes[0])
            box = bounding_box(turned > 0)
            labels = crop(turned, box)
            table = [_row_slices(volume, axes), brain_px, *map(_count, _planes(labels))]
            arrays |= {"labels": labels, "table": np.stack(table, axis=1)}
            part.entry = {
                "patient_id": volume.patient_id,
                "grade": volume.grade,
                "spacing_mm": volume.spacing_mm and list(volume.spacing_mm),
                "native_shape": list(volume.labels.shape[1:]),
                "stack_size": volume.stack_size,
                "count": len(labels),
                "parts_known": volume.parts_known,
                "tumour_box": list(box),
                "native_bytes": -(-labels.size * len(TARGETS) // 8),
            }
            if settings.plane != "axial":
                slices = volume.slice_indices, _count(volume.labels > 0)
                part.entry["slices"] = {"indices": slices[0].tolist(), "px": slices[1].tolist()}
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
    slices = entry.get("slices", {}).get("indices", range(entry.get("count", 0)))
    known = (len(slices), *entry["native_shape"]) if entry else shape
    if shape != known:
        what = f"{volume.modalities[0]} and its other modalities"
        raise UserError(f"{volume.patient_id}: {what} have the shapes {shape} and {known}")


def _check_plane(volume: Volume, settings: CacheSettings) -> None:
    if settings.plane != "axial" and (why := volume.why_one_plane):
        raise UserError(f"{volume.patient_id} has no {settings.plane} slices (data.plane): {why}")


def _row_slices(volume: Volume, axes: Axes) -> NDArray[np.int32]:
    """Positions of the slices of a plane in their stack."""
    if axes[0] == axes[1]:
        return volume.slice_indices
    return np.arange(reorder(volume.labels.shape, *axes[::-1])[0], dtype=np.int32)


def _extent(volume: Volume, brain: Box, axes: Axes) -> Extent:
    """Extent of the slices of a plane, whose pixels are square unless they cross native slices."""
    _, *frame = reorder(volume.labels.shape, *axes[::-1])
    if volume.spacing_mm is None or axes[0] == axes[1]:
        return Extent((frame[0], frame[1]), brain)
    _, *pixel = reorder(volume.spacing_mm, *axes[::-1])
    return Extent((frame[0], frame[1]), brain, (pixel[0], pixel[1]))


def _levels(
    volume: Volume, index: int, settings: CacheSettings, axes: Axes
) -> tuple[Box, UInt8, NDArray[np.float32], NDArray[np.int32]]:
    """Turn modality number ``index`` of a volume to a plane, normalise and crop it to its brain.

    Returns its box; levels and scale, see ``quantise``; pixels of brain of each slice.
    """
    image, shared_scale = volume.images[index], volume.shared_scales[index]
    modality = volume.modalities[index]
    if axes[0] != axes[1]:
        if not shared_scale:  # native slices of different scales would be stripes
            brain, shared_scale = brain_mask(image, shared_scale=False), True
            levels, _ = quantise(image, brain, settings.normalise, "slice", modality)
            image = levels.astype(np.float32)
        image = turn(image, axes[1], axes[0])
    brain = brain_mask(image, shared_scale=shared_scale)
    box = bounding_box(brain)
    brain = crop(brain, box)
    scope = settings.normalise_scope
    if scope == "auto":
        scope = "volume" if shared_scale else "slice"
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
    of ``MODALITIES`` decides the window, as in a cache. Raises UserError where the volume has no
    slices of the settings' plane.
    """

    def __init__(
        self,
        volume: Volume,
        settings: CacheSettings,
        shape: tuple[int, int],
        inputs: int,
        upright: bool = False,
    ) -> None:
        _check_plane(volume, settings)
        self.settings, self.upright, axes = settings, upright, settings.axes(upright)
        read = [_levels(volume, index, settings, axes) for index in range(len(volume.images))]
        names = [MODALITIES.index(name) for name in volume.modalities]
        brain, _, _, brain_px = read[names.index(min(names))]
        extent = _extent(volume, brain, axes)
        needed = cached_shape([extent], settings)
        self.shape = (max(shape[0], needed[0]), max(shape[1], needed[1]))
        box, nothing = place(extent, self.shape, settings), np.zeros_like(brain_px)
        self.images = tuple(
            resize_images(crop(levels, box.inside(own)), self.shape)
            for own, levels, _, _ in read[:inputs]
        )
        self.row_slice, self.row_brain_px = _row_slices(volume, axes), brain_px
        self.row_patient = nothing
        self._labels = volume.labels
        shared = ("patient_id", "grade", "spacing_mm", "stack_size", "slice_indices")
        self.patient = CachedPatient(
            **{name: getattr(volume, name) for name in shared},
            native_shape=volume.labels.shape[1:],
            parts_known=False,
            axes=axes,
            box=box,
            tumour_box=Box(0, 0, 0, 0),
            first=0,
            slice_px=np.zeros_like(volume.slice_indices),
            brain_px=brain_px,
            tumour_px=nothing,
            whole_px=nothing,
        )
        self.by_id = {volume.patient_id: self.patient}

    def native_mask(self, patient: CachedPatient) -> UInt8:
        """Return the mask of the target: (S, H, W) in {0, 1}."""
        return target_mask(self._labels, self.target).astype(np.uint8)

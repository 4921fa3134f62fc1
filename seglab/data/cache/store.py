"""A cache, opened: slices by row, patients by name, masks of the target on both grids."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from seglab.data.cache.files import INDEX, LABELS, NATIVE_LABELS, SLICES, Json, digest, read_json
from seglab.data.cache.geometry import Box, resize_images, uncrop
from seglab.data.labels import ENHANCING, NON_ENHANCING, OEDEMA, TARGETS, UNKNOWN_PART
from seglab.data.normalise import Method, Scope

if TYPE_CHECKING:  # workers that fill a cache start without it
    from seglab.core.config import Data

UInt8 = NDArray[np.uint8]
Ints = NDArray[np.int32]
Rows = NDArray[np.int64] | slice


@dataclass(frozen=True)
class CacheSettings:
    """How slices are cropped, scaled, normalised and labelled; keys of the ``data`` block."""

    image_size: int
    """Pixels along the whole, square native frame: sets the scale, cropped or not."""
    crop: Literal["brain", "none"]
    normalise: Method
    normalise_scope: Literal["auto", "slice", "volume"]
    labels: str = "auto"

    @classmethod
    def from_config(cls, data: Data) -> CacheSettings:
        """Take the keys of the ``data`` block."""
        return cls(**{field.name: getattr(data, field.name) for field in fields(cls)})

    def scope(self, shared_scale: bool) -> Scope:
        """Over what an image is normalised; ``auto`` asks whether its slices share a scale."""
        if self.normalise_scope == "auto":
            return "volume" if shared_scale else "slice"
        return self.normalise_scope

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the cache's index holds them."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class CachedPatient:
    """One patient's rows, and where they came from."""

    patient_id: str
    grade: str | None
    spacing_mm: tuple[float, float, float] | None
    """(slice, row, column), or None where unknown."""
    native_shape: tuple[int, int]
    """(H, W) of the source's slices."""
    stack_size: int
    """Slices of the full stack."""
    parts_known: bool
    """False where a merged mask tells only tumour from the rest."""
    box: Box
    """Native window behind the cached slices."""
    tumour_box: Box
    """Native window around all tumour, where the exact masks are stored."""
    first: int
    """First row in the cache's arrays."""
    slice_indices: Ints
    """(count,) ascending positions in the full stack."""
    tumour_px: Ints
    """(count,) native pixels of the target in each slice."""
    whole_px: Ints
    """(count,) native pixels of any tumour in each slice."""
    brain_px: Ints
    """(count,) native brain pixels of each slice."""

    @property
    def count(self) -> int:
        """Rows, one a slice."""
        return len(self.slice_indices)

    @property
    def rows(self) -> slice:
        """Rows of the patient in the cache's arrays."""
        return slice(self.first, self.first + self.count)

    @property
    def contiguous(self) -> bool:
        """Whether the slices follow one another without a gap."""
        return bool(np.all(np.diff(self.slice_indices) == 1))


class Cache:
    """Some modalities and one target of a cache folder; read-only, shared by processes.

    Attributes:
        path: the folder.
        modalities: of ``images``, in their order.
        target: what the masks mark.
        source: name of the data source.
        upright, mirror_axis: how its slices lie, see ``Source``.
        settings: see ``CacheSettings``, as plain values.
        shape: (h, w) of the cached slices.
        data_hash: SHA-256 of what is read of the folder, the same on every machine.
        images: one (N, h, w) uint8 memory map a modality; 0 is background.
        masks_packed: (N, h, ceil(w / 8)) uint8, eight pixels a byte.
        scale: (M, N, 2) float32; ``offset + q * step`` gives back the source's units.
        patients: those used, in the order of their rows.
        skipped: (patient id, reason) of the others.
        conventions: by which the labels were read → the patients of each.
        remarks: what a reader should be told → the patients of which it is true.
        row_patient: (N,) index into ``patients``; -1 where none is used.
        row_slice, row_tumour_px, row_brain_px: (N,) int32, as in ``CachedPatient``.

    Args:
        path: the folder.
        modalities: read as ``images``; none take the reference modality.
        target: see ``data.target``.
        left_out: patients that are not to be used → why.

    Raises:
        UserError: a file is absent, unreadable or changed.
    """

    def __init__(
        self,
        path: Path,
        modalities: Sequence[str] = (),
        target: str = "whole",
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        index = read_json(path / INDEX)
        left_out = index["skipped"] | (left_out or {})
        self.path, self.target = path, target
        self.reference: str = index["reference"]
        self.modalities = tuple(modalities) or (self.reference,)
        self.source: str = index["source"]
        self.upright: bool = index["upright"]
        self.mirror_axis: int = index["mirror_axis"]
        self.settings: Json = index["settings"]
        self.shape: tuple[int, int] = tuple(index["shape"])
        about = [index, *(read_json(path / f"{name}.json") for name in self.modalities)]
        hidden = sorted(left_out.keys() & {entry["patient_id"] for entry in index["patients"]})
        self.data_hash = digest([[one["digest"] for one in about], hidden])
        self.bytes = sum(file["bytes"] for one in about for file in one["files"].values())
        self.skipped = tuple(left_out.items())
        self.images = tuple(self._map(f"{name}.npy") for name in self.modalities)
        self.scale = np.stack([np.load(path / f"{name}.scale.npy") for name in self.modalities])
        plane = tuple(TARGETS).index(target)
        self.masks_packed = self._map(LABELS)[:, plane]
        columns = np.ascontiguousarray(np.load(path / SLICES).T)
        self.row_slice, self.row_brain_px, self._row_whole_px = columns[:3]
        self.row_tumour_px = columns[2 + plane]
        everyone = list(self._read_patients(index["patients"]))
        self.patients = tuple(one for one in everyone if one.patient_id not in left_out)
        self.by_id = {patient.patient_id: patient for patient in self.patients}
        conventions = {one["patient_id"]: [one["convention"]] for one in index["patients"]}
        self.conventions = _by_text(conventions, self.by_id)
        self.remarks = _by_text(index["remarks"], self.by_id)
        self.row_patient = np.full(len(self.row_slice), -1, np.int32)
        for number, patient in enumerate(self.patients):
            self.row_patient[patient.rows] = number

    @property
    def slices(self) -> int:
        """Slices of the patients that are used."""
        return sum(patient.count for patient in self.patients)

    def masks(self, rows: Rows) -> UInt8:
        """Unpack the masks of some rows: (n, h, w) in {0, 1}."""
        return np.unpackbits(self.masks_packed[rows], axis=-1, count=self.shape[1])

    def native_mask(self, patient: CachedPatient) -> UInt8:
        """Return the source's own mask of the target, exactly: (S, H, W) in {0, 1}."""
        plane = self._native_planes(patient)[tuple(TARGETS).index(self.target)]
        return uncrop(plane, patient.tumour_box, patient.native_shape)

    def native_labels(self, patient: CachedPatient) -> UInt8:
        """Return the canonical label map, see :mod:`seglab.data.labels`: (S, H, W)."""
        planes = dict(zip(TARGETS, self._native_planes(patient), strict=True))
        labels = planes["whole"] * np.uint8(OEDEMA if patient.parts_known else UNKNOWN_PART)
        labels[planes["core"] > 0] = NON_ENHANCING
        labels[planes["enhancing"] > 0] = ENHANCING
        return uncrop(labels, patient.tumour_box, patient.native_shape)

    def _native_planes(self, patient: CachedPatient) -> UInt8:
        """Masks of all targets within the patient's tumour box: (3, S, h, w) in {0, 1}."""
        box, first = patient.tumour_box, self._native_first[patient.patient_id]
        shape = (len(TARGETS), patient.count, box.height, box.width)
        packed = self._native[first : first + -(-int(np.prod(shape)) // 8)]
        return np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape)

    def native_image(self, patient: CachedPatient, modality: int = 0) -> UInt8:
        """Return a cached image on the native grid, for pictures: (S, H, W) uint8."""
        return native_levels(self.images[modality][patient.rows], patient)

    @cached_property
    def _native(self) -> UInt8:
        return self._map(NATIVE_LABELS)

    def _map(self, name: str) -> UInt8:
        return cast("UInt8", np.load(self.path / name, mmap_mode="r"))

    def _read_patients(self, entries: Sequence[Json]) -> Sequence[CachedPatient]:
        """The patients in the order of their rows, each behind the one before."""
        firsts = accumulate((entry["count"] for entry in entries), initial=0)
        native = accumulate((entry["native_bytes"] for entry in entries), initial=0)
        names = [entry["patient_id"] for entry in entries]
        self._native_first = dict(zip(names, native, strict=False))
        return [self._patient(entry, first) for entry, first in zip(entries, firsts, strict=False)]

    def _patient(self, entry: Json, first: int) -> CachedPatient:
        rows = slice(first, first + entry["count"])
        spacing = entry["spacing_mm"]
        return CachedPatient(
            patient_id=entry["patient_id"],
            grade=entry["grade"],
            spacing_mm=None if spacing is None else tuple(spacing),
            native_shape=tuple(entry["native_shape"]),
            stack_size=entry["stack_size"],
            parts_known=entry["parts_known"],
            box=Box(*entry["box"]),
            tumour_box=Box(*entry["tumour_box"]),
            first=first,
            slice_indices=self.row_slice[rows],
            tumour_px=self.row_tumour_px[rows],
            whole_px=self._row_whole_px[rows],
            brain_px=self.row_brain_px[rows],
        )


open_cache = Cache
"""Whoever imports it may read every patient; see :mod:`seglab.data.sealed`."""


def _by_text(texts: Mapping[str, Sequence[str]], used: Container[str]) -> dict[str, list[str]]:
    """Gather the patients of which a text is true; an ellipsis stands for a patient's name."""
    found: dict[str, list[str]] = {}
    for name, said in texts.items():
        for text in said if name in used else ():
            found.setdefault(text.replace(name, "…"), []).append(name)
    return found


def native_levels(levels: UInt8, patient: CachedPatient) -> UInt8:
    """Bring cached levels (S, h, w) of a patient to its native grid (S, H, W)."""
    box = patient.box
    return uncrop(resize_images(levels, (box.height, box.width)), box, patient.native_shape)

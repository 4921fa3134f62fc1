"""A cache, opened: slices by row, patients by name, masks of the target on both grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
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
    brain_px: Ints
    """(count,) native brain pixels of each slice."""
    tumour_px: Ints
    """(count,) native pixels of the target in each slice."""
    whole_px: Ints
    """(count,) native pixels of any tumour in each slice."""

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
        patients: those used, in the order of their rows; ``by_id`` finds them by name.
        skipped: (patient id, reason) of the others.
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
        self.path, self.target = path, target
        self.reference: str = index["reference"]
        self.modalities = tuple(modalities) or (self.reference,)
        self.source: str = index["source"]
        self.upright: bool = index["upright"]
        self.mirror_axis: int = index["mirror_axis"]
        self.settings: Json = index["settings"]
        self.shape: tuple[int, int] = tuple(index["shape"])
        self.skipped = tuple((index["skipped"] | (left_out or {})).items())
        hidden = {name for name, _ in self.skipped}
        parts = [index, *(read_json(path / f"{name}.json") for name in self.modalities)]
        used = sorted(hidden & {entry["patient_id"] for entry in index["patients"]})
        self.data_hash = digest([[part["digest"] for part in parts], used])
        self.bytes = sum(file["bytes"] for part in parts for file in part["files"].values())
        self.images = tuple(self._map(f"{name}.npy") for name in self.modalities)
        self.scale = np.stack([np.load(path / f"{name}.scale.npy") for name in self.modalities])
        plane = tuple(TARGETS).index(target)
        self.masks_packed = self._map(LABELS)[:, plane]
        columns = np.ascontiguousarray(np.load(path / SLICES).T)
        self.row_slice, self.row_brain_px, self._row_whole_px = columns[:3]
        self.row_tumour_px = columns[2 + plane]
        self._read_patients(index, hidden)

    def _read_patients(self, index: Json, hidden: set[str]) -> None:
        """Find the patients' rows, each behind those of the one before."""
        self.row_patient = np.full(len(self.row_slice), -1, np.int32)
        self.remarks: dict[str, list[str]] = {}
        self._native_first: dict[str, int] = {}
        used: list[CachedPatient] = []
        first = native = 0
        for entry in index["patients"]:
            name, count = entry["patient_id"], entry["count"]
            self._native_first[name] = native
            if name not in hidden:
                self.row_patient[first : first + count] = len(used)
                used.append(self._patient(entry, first))
                for text in index["remarks"][name]:
                    self.remarks.setdefault(text.replace(name, "…"), []).append(name)
            first, native = first + count, native + entry["native_bytes"]
        self.patients = tuple(used)
        self.by_id = {patient.patient_id: patient for patient in used}

    def _patient(self, entry: Json, first: int) -> CachedPatient:
        rows, spacing = slice(first, first + entry["count"]), entry["spacing_mm"]
        return CachedPatient(
            **{key: entry[key] for key in ("patient_id", "grade", "stack_size", "parts_known")},
            spacing_mm=None if spacing is None else tuple(spacing),
            native_shape=tuple(entry["native_shape"]),
            box=Box(*entry["box"]),
            tumour_box=Box(*entry["tumour_box"]),
            first=first,
            slice_indices=self.row_slice[rows],
            brain_px=self.row_brain_px[rows],
            tumour_px=self.row_tumour_px[rows],
            whole_px=self._row_whole_px[rows],
        )

    def _map(self, name: str) -> UInt8:
        return cast("UInt8", np.load(self.path / name, mmap_mode="r"))

    @property
    def slices(self) -> int:
        """Slices of the patients that are used."""
        return sum(patient.count for patient in self.patients)

    def masks(self, rows: Rows) -> UInt8:
        """Unpack the masks of some rows: (n, h, w) in {0, 1}."""
        return np.unpackbits(self.masks_packed[rows], axis=-1, count=self.shape[1])

    def native_mask(self, patient: CachedPatient) -> UInt8:
        """Return the source's own mask of the target, exactly: (S, H, W) in {0, 1}."""
        plane = self._native_planes(patient)[self.target]
        return uncrop(plane, patient.tumour_box, patient.native_shape)

    def native_labels(self, patient: CachedPatient) -> UInt8:
        """Return the canonical label map, see :mod:`seglab.data.labels`: (S, H, W)."""
        planes = self._native_planes(patient)
        labels = planes["whole"] * np.uint8(OEDEMA if patient.parts_known else UNKNOWN_PART)
        labels[planes["core"] > 0] = NON_ENHANCING
        labels[planes["enhancing"] > 0] = ENHANCING
        return uncrop(labels, patient.tumour_box, patient.native_shape)

    def _native_planes(self, patient: CachedPatient) -> dict[str, UInt8]:
        """Target → its mask within the patient's tumour box: (S, h, w) in {0, 1}."""
        box, first = patient.tumour_box, self._native_first[patient.patient_id]
        shape = (len(TARGETS), patient.count, box.height, box.width)
        size = int(np.prod(shape))
        packed = self._map(NATIVE_LABELS)[first : first + -(-size // 8)]
        return dict(zip(TARGETS, np.unpackbits(packed, count=size).reshape(shape), strict=True))

    def native_image(self, patient: CachedPatient, modality: int = 0) -> UInt8:
        """Return a cached image on the native grid, for pictures: (S, H, W) uint8."""
        box, levels = patient.box, self.images[modality][patient.rows]
        return uncrop(resize_images(levels, box[2:]), box, patient.native_shape)


open_cache = Cache
"""Whoever imports it may read every patient; see :mod:`seglab.data.sealed`."""

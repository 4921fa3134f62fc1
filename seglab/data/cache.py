"""The cache: every slice of a data set as packed, memory-mapped uint8, written once.

``index.json`` describes patients, windows and labels, ``MODALITY.json`` a modality's arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import Data
from seglab.core.documents import digest
from seglab.core.errors import UserError
from seglab.data.geometry import Box, crop, resize_images, turned, uncrop
from seglab.data.labels import ENHANCING, NON_ENHANCING, OEDEMA, TARGETS, UNKNOWN_PART
from seglab.data.names import SYNTHETIC
from seglab.data.normalise import Method
from seglab.data.volume import PLANES, UPRIGHT, reorder

INDEX, SLICES, LABELS, NATIVE_LABELS = "index.json", "slices.npy", "labels.npy", "native_labels.npy"
COVERED = 255  # of ``Cache.coverage``: a pixel that is all tumour
_NOT_CONTENT = {"digest", "skipped", "remarks", "synthetic"}  # reasons and remarks may name paths

UInt8 = NDArray[np.uint8]
Ints = NDArray[np.int32]
Rows = NDArray[np.int64] | slice
Json = dict[str, Any]


@dataclass(frozen=True)
class CacheSettings:
    """How slices are cropped, scaled, normalised and labelled; keys of the ``data`` block."""

    image_size: int  # pixels along the whole, square native frame: sets the scale
    crop: Literal["brain", "none"]
    normalise: Method
    normalise_scope: Literal["auto", "slice", "volume"]
    labels: str = "auto"
    plane: str = "axial"

    def to_json(self) -> Json:
        """Plain values; a cache of axial slices is known by those of the time without planes."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("plane", "axial")}

    def axes(self, upright: bool) -> tuple[str, str]:
        """Where the cached slices run to and the files' own, see :data:`PLANES`."""
        native = UPRIGHT if upright else PLANES["axial"]
        return (native if self.plane == "axial" else PLANES[self.plane]), native

    def mirror_axis(self, native: int) -> int | None:
        """Axis of a cached slice along which left and right lie, ``native`` of the files' own."""
        return {"axial": native, "coronal": 0, "sagittal": None}[self.plane]

    @classmethod
    def from_config(cls, data: Data) -> CacheSettings:
        """Take the keys of the ``data`` block."""
        return cls(**{field.name: getattr(data, field.name) for field in fields(cls)})


@dataclass(frozen=True, eq=False)
class CachedPatient:
    """One patient's rows, and where they came from; native is as the files hold it."""

    patient_id: str
    grade: str | None
    spacing_mm: tuple[float, float, float] | None  # (slice, row, column)
    native_shape: tuple[int, int]  # (H, W) of the source's slices
    stack_size: int  # native slices of the full stack
    parts_known: bool  # False where a merged mask tells only tumour from the rest
    axes: tuple[str, str]  # of the cached slices and native ones, see ``CacheSettings.axes``
    box: Box  # window in the frame behind the cached slices
    tumour_box: Box  # window in the frame around all tumour, where the exact masks are stored
    first: int  # row in the cache's arrays
    slice_indices: Ints  # (S,) ascending positions of native slices in the full stack
    slice_px: Ints  # (S,) pixels of any tumour in each
    brain_px: Ints  # (count,) native pixels of each slice: of brain,
    tumour_px: Ints  # of the target,
    whole_px: Ints  # of any tumour

    @property
    def count(self) -> int:
        """Rows, one a cached slice."""
        return len(self.brain_px)

    @property
    def frame(self) -> tuple[int, int]:
        """(H, W) of a whole slice as it is cached, in native pixels."""
        shape = (len(self.slice_indices), *self.native_shape)
        _, height, width = reorder(shape, *self.axes[::-1])
        return height, width

    @property
    def row_mm(self) -> float | None:
        """Millimetres from row to row of the frame."""
        spacing = self.spacing_mm
        return None if spacing is None else reorder(spacing, *self.axes[::-1])[1]

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
        further: the same patients in further planes (``model.planes``), but those that have none.
        reference: the modality whose brain decided the windows.
        notice: what pages and pictures say of the data; empty where they are of patients.
        shape: (h, w) of the cached slices.
        upright, mirror_axis: how native slices lie; ``flip_axis``: left–right of cached ones.
        data_hash: SHA-256 of what is read of the folder, the same on every machine.
        images: one (N, h, w) uint8 memory map a modality; 0 is background.
        masks_packed: (N, h, ceil(w / 8)) uint8, eight pixels a byte.
        scale: (M, N, 2) float32; ``offset + q * step`` gives back the source's units.
        patients: those used, in the order of their rows; ``by_id`` finds them by name.
        skipped: (patient id, reason) of the others.
        left_out: those of the source who lack a modality, a line a reason.
        remarks: what a reader should be told → the patients of which it is true.
        row_patient: (N,) index into ``patients``; -1 where none is used.
        row_slice: (N,) int32, position in the stack of the plane.
        row_tumour_px, row_brain_px: (N,) int32, as in ``CachedPatient``.

    Args:
        path: the folder; a UserError where a file is absent, unreadable or changed.
        modalities: read as ``images``; none take the reference modality.
        target: what the masks mark, see ``data.target``.
        require: patients whose images of these cannot be read are not used either.
    """

    further: tuple[Cache, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(
        self,
        path: Path,
        modalities: Sequence[str] = (),
        target: str = "whole",
        require: Sequence[str] = (),
    ) -> None:
        index = read_json(path / INDEX)
        self.path, self.target, self.require = path, target, tuple(require)
        self.reference: str = index["reference"]
        self.modalities = tuple(modalities) or (self.reference,)
        self.source: str = index["source"]
        self.notice = SYNTHETIC if index.get("synthetic") else ""
        self.upright: bool = index["upright"]
        self.mirror_axis: int = index["mirror_axis"]
        self.settings = CacheSettings(**index["settings"])
        self.shape: tuple[int, int] = tuple(index["shape"])
        names = dict.fromkeys((*self.modalities, *require))
        parts = [index, *(read_json(path / f"{name}.json") for name in names)]
        skipped: dict[str, str] = {k: v for part in parts for k, v in part["skipped"].items()}
        if target != "whole":
            reason = f"data.target={target}: the mask marks the whole tumour only"
            merged = [one["patient_id"] for one in index["patients"] if not one["parts_known"]]
            skipped |= dict.fromkeys(merged, reason)
        self.skipped = tuple(skipped.items())
        hidden = sorted(skipped.keys() & {entry["patient_id"] for entry in index["patients"]})
        parts = parts[: 1 + len(self.modalities)]
        self.data_hash = digest([[part["digest"] for part in parts], hidden])
        self.bytes = sum(file["bytes"] for part in parts for file in part["files"].values())
        self.images = tuple(self._map(f"{name}.npy") for name in self.modalities)
        self.scale = np.stack([np.load(path / f"{name}.scale.npy") for name in self.modalities])
        plane = tuple(TARGETS).index(target)
        self.masks_packed = self._map(LABELS)[:, plane]
        self._native_packed = self._map(NATIVE_LABELS)
        columns = np.ascontiguousarray(np.load(path / SLICES).T)
        self.row_slice, self.row_brain_px, self._row_whole_px = columns[:3]
        self.row_tumour_px = columns[2 + plane]
        self._read_patients(index, skipped)

    def _read_patients(self, index: Json, skipped: Mapping[str, str]) -> None:
        self.row_patient = np.full(len(self.row_slice), -1, np.int32)
        self.remarks: dict[str, list[str]] = {}
        self._native_first: dict[str, int] = {}
        used: list[CachedPatient] = []
        first = native = 0
        for entry in index["patients"]:
            name, rows = entry["patient_id"], slice(first, first + entry["count"])
            self._native_first[name] = native
            if name not in skipped:
                self.row_patient[rows] = len(used)
                used.append(self._patient(entry, rows))
                for text in index["remarks"][name]:
                    self.remarks.setdefault(text.replace(name, "…"), []).append(name)
            first, native = rows.stop, native + entry["native_bytes"]
        self.patients = tuple(used)
        self.by_id = {patient.patient_id: patient for patient in used}

    def _patient(self, entry: Json, rows: slice) -> CachedPatient:
        spacing, whole_px = entry["spacing_mm"], self._row_whole_px[rows]
        slices = entry.get("slices", {"indices": self.row_slice[rows], "px": whole_px})
        return CachedPatient(
            **{key: entry[key] for key in ("patient_id", "grade", "stack_size", "parts_known")},
            spacing_mm=None if spacing is None else tuple(spacing),
            native_shape=tuple(entry["native_shape"]),
            axes=self.settings.axes(self.upright),
            box=Box(*entry["box"]),
            tumour_box=Box(*entry["tumour_box"]),
            first=rows.start,
            slice_indices=np.asarray(slices["indices"], np.int32),
            slice_px=np.asarray(slices["px"], np.int32),
            brain_px=self.row_brain_px[rows],
            tumour_px=self.row_tumour_px[rows],
            whole_px=whole_px,
        )

    def _map(self, name: str) -> UInt8:
        return cast("UInt8", np.load(self.path / name, mmap_mode="r"))

    @property
    def flip_axis(self) -> int | None:
        """Axis of a cached slice along which left and right lie; None of a sagittal one."""
        return self.settings.mirror_axis(self.mirror_axis)

    def in_planes(self, patient: CachedPatient) -> list[tuple[Cache, CachedPatient]]:
        """A patient in each plane that it has, with the plane's cache; this one first."""
        name = patient.patient_id
        others = [(one, one.by_id[name]) for one in self.further if name in one.by_id]
        return [(self, patient), *others]

    @property
    def slices(self) -> int:
        """Slices of the patients that are used."""
        return sum(patient.count for patient in self.patients)

    def masks(self, rows: Rows) -> UInt8:
        """Unpack the masks of some rows: (n, h, w) in {0, 1}."""
        return np.unpackbits(self.masks_packed[rows], axis=-1, count=self.shape[1])

    def coverage(self, rows: NDArray[np.int64]) -> UInt8:
        """Share of each cached pixel that is tumour, (n, h, w) in 255ths, from the exact masks.

        They are cut and scaled as images are; on a grid finer than theirs they are interpolated.
        """
        shares = np.zeros((len(rows), *self.shape), np.uint8)
        for number in np.flatnonzero(self.row_tumour_px[rows]):
            patient = self.patients[self.row_patient[rows[number]]]
            index = int(rows[number]) - patient.first
            mask = self._boxed_mask(patient, self.target, index, index + 1)
            window = crop(mask * np.uint8(COVERED), patient.box.inside(patient.tumour_box))
            shares[number] = resize_images(window, self.shape)[0]
        return shares

    def native_mask(self, patient: CachedPatient) -> UInt8:
        """Return the source's own mask of the target, exactly: (S, H, W) in {0, 1}."""
        mask = self._boxed_mask(patient, self.target)
        return turned(uncrop(mask, patient.tumour_box, patient.frame), patient)

    def native_labels(self, patient: CachedPatient) -> UInt8:
        """Return the canonical label map, see :mod:`seglab.data.labels`: (S, H, W)."""
        whole, core, enhancing = (self._boxed_mask(patient, target) for target in TARGETS)
        labels = whole * np.uint8(OEDEMA if patient.parts_known else UNKNOWN_PART)
        labels[core > 0] = NON_ENHANCING
        labels[enhancing > 0] = ENHANCING
        return turned(uncrop(labels, patient.tumour_box, patient.frame), patient)

    def _boxed_mask(
        self, patient: CachedPatient, target: str, start: int = 0, stop: int | None = None
    ) -> UInt8:
        """Mask of some cached slices within the patient's tumour box: (n, h, w) in {0, 1}."""
        box = patient.tumour_box
        count = (patient.count if stop is None else stop) - start
        before = tuple(TARGETS).index(target) * patient.count + start  # slices of a bit a pixel
        first, skipped = divmod(before * box.height * box.width, 8)
        first, bits = first + self._native_first[patient.patient_id], count * box.height * box.width
        packed = self._native_packed[first : first + -(-(skipped + bits) // 8)]
        found = np.unpackbits(packed, count=skipped + bits)[skipped:]
        return found.reshape(count, box.height, box.width)

    def native_image(self, patient: CachedPatient, modality: int = 0) -> UInt8:
        """Return a cached image on the native grid, for pictures: (S, H, W) uint8."""
        box, levels = patient.box, self.images[modality][patient.rows]
        return turned(uncrop(resize_images(levels, box[2:]), box, patient.frame), patient)


open_cache = Cache  # reads every patient, those of the test too; :mod:`seglab.data.sealed` does not


def content_digest(content: Json) -> str:
    """SHA-256 of what the arrays and their description hold; of nothing of this machine."""
    kept = {key: value for key, value in content.items() if key not in _NOT_CONTENT}
    kept["files"] = {name: entry["sha256"] for name, entry in content["files"].items()}
    return digest(kept)


def describe(path: Path) -> Json:
    """Size, hash and time of an array's file, as the JSON beside it holds them."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    stat = path.stat()
    return {"bytes": stat.st_size, "sha256": found, "mtime_ns": stat.st_mtime_ns}


def read_json(path: Path) -> Json:
    """Read a JSON of a cache; a UserError where it or an array (by time, else hash) has changed."""
    remedy = f"remove the folder {path.parent} to build the cache again"
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
        changed = [] if content["digest"] == content_digest(content) else [path]
        arrays = {path.with_name(name): entry for name, entry in content["files"].items()}
        changed += [array for array, entry in arrays.items() if _has_changed(array, entry)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if changed:
        raise UserError(f"{changed[0]} has changed since it was written; {remedy}")
    return content


def _has_changed(path: Path, entry: Json) -> bool:
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (entry["bytes"], entry["mtime_ns"]):
        return False
    return bool(describe(path)["sha256"] != entry["sha256"])

"""The Kaggle set of BraTS 2020 slices: ``volume_<V>_slice_<S>.h5``.

Each file holds ``image`` (240, 240, 4) float64, every channel z-scored over the
whole slice with its background, and ``mask`` (240, 240, 3) uint8, one plane per
tumour part. Slice S is z index S of the challenge's NIfTI volume V, neither
flipped nor transposed. The scanner's whole numbers are taken back from the scores,
so that all slices of a volume have one scale; see :mod:`seglab.data.lattice`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.core.tables import read_rows
from seglab.data import lattice
from seglab.data.files import (
    check_file,
    check_same_shape,
    check_shape,
    check_stack,
    finite_image,
    plausible_spacing,
    same_name,
    unreadable,
)
from seglab.data.labels import (
    ENHANCING,
    NON_ENHANCING,
    OEDEMA,
    UNKNOWN_PART,
    LabelMap,
    read_labels,
)
from seglab.data.sources.base import Source, image_files, labelled
from seglab.data.volume import Patient, Volume

if TYPE_CHECKING:
    import h5py

STACK_MM = 155
"""Height of a BraTS volume: 155 slices of 1 mm."""
SPACING_MM = (1.0, 1.0, 1.0)
"""Of every BraTS volume; the files of the set state none."""
SPACING = "spacing_mm"
"""Attribute of ``image`` in files that state it: (slice, row, column)."""
LISTINGS = ("meta_data.csv", "BraTS20 Training Metadata.csv")
"""Both names that the set's list of slices has been published under."""
PARTS = (NON_ENHANCING, OEDEMA, ENHANCING)
"""What the planes of ``mask`` mark."""
MERGED = 8
"""Stands for a mask of one plane, among the bits of three."""
_FILE = re.compile(r"(volume_(\d{1,6}))_slice_(\d{1,4})\.h5", re.IGNORECASE)

Key = tuple[int, int]
"""(volume, slice)"""


@SOURCES.register("brats-h5")
class BratsH5(Source):
    """BraTS 2020 as the Kaggle slice files volume_<V>_slice_<S>.h5.

    The root may be any folder above the files. Neither the CSVs nor all of the
    slices need be there.
    """

    name = "brats-h5"
    modalities = ("flair", "t1", "t1ce", "t2")
    upright = False
    mirror_axis = 0
    suffixes = (".h5",)

    def list_patients(self, *, strict: bool) -> list[Patient]:
        """List the volumes that have at least one slice; see ``Source``."""
        if strict and not self._files:
            raise UserError(f"{self.root} holds no file named volume_<V>_slice_<S>.h5")
        stacks: dict[tuple[str, Path], list[Path]] = {}
        files = self._files.values() if strict else self._paths
        for path in sorted(files, key=lambda path: (_key(path) or (0, 0), path)):
            match = _FILE.fullmatch(path.name)
            if match:
                name = f"BraTS20_Training_{int(match[2]):03d}" if strict else match[1]
                stacks.setdefault((name, Path() if strict else path.parent), []).append(path)
            elif path.suffix.lower() in self.suffixes:  # a scan may have any name
                stacks[path.stem, path] = [path]
        return [self._patient(name, tuple(paths)) for (name, _), paths in stacks.items()]

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Open each slice once; see ``Source``."""
        image_files(patient, modalities)
        paths = patient.images[modalities[0]]
        channels = [self.modalities.index(modality) for modality in modalities]
        scores: list[list[NDArray[Any]]] = [[] for _ in modalities]
        parts = []
        for path in paths:
            values, marked = _read_slice(path, channels, with_labels)
            for stack, plane in zip(scores, values, strict=True):
                check_stack(path, plane.shape, stack[0].shape if stack else plane.shape)
                stack.append(plane)
            parts.append(marked)
        check_shape(paths[0], (len(paths), *scores[0][0].shape))
        volume = self._volume(patient, paths, modalities, scores)
        return labelled(volume, paths[0], _label_map(np.stack(parts))) if with_labels else volume

    def missing_files(self) -> list[str]:
        """Slices that a CSV lists, or without one those skipped by the numbering."""
        expected = self._listed or _up_to_last(self._files)
        return [f"volume_{v}_slice_{s}.h5" for v, s in sorted(expected - self._files.keys())]

    def _volume(
        self,
        patient: Patient,
        paths: Sequence[Path],
        modalities: Sequence[str],
        scores: Sequence[list[NDArray[Any]]],
    ) -> Volume:
        images, scales, told = zip(*map(lattice.one_scale, scores), strict=True)
        spacing_mm, remarks = _spacing(paths[0])
        keys = [_key(path) or (0, 0) for path in paths]
        whole = round(STACK_MM / (spacing_mm or SPACING_MM)[0]) if _key(paths[0]) else 1
        return Volume(
            patient_id=patient.patient_id,
            images=images[0][None] if len(images) == 1 else np.stack(images),
            modalities=tuple(modalities),
            labels=np.zeros(images[0].shape, np.uint8),
            parts_known=False,
            slice_indices=np.array([index for _, index in keys], np.int32),
            stack_size=max(patient.stack_size or whole, keys[-1][1] + 1),
            spacing_mm=spacing_mm,
            affine=None,
            shared_scales=scales,
            grade=patient.grade,
            remarks=(
                *remarks,
                *(f"{name}: {text}" for name, text in zip(modalities, told, strict=True) if text),
            ),
        )

    @cached_property
    def _files(self) -> dict[Key, Path]:
        found: dict[Key, Path] = {}
        for path in self._paths:
            key = _key(path)
            if key is not None and key in found:
                raise same_name(found[key], path, f"slice {key[1]} of volume {key[0]}")
            if key is not None:
                found[key] = path
        return found

    @cached_property
    def _listed(self) -> set[Key]:
        listings = [path for path in self._paths if path.name in LISTINGS]
        return {key for path in listings for key in _listed_slices(path)}

    @cached_property
    def _last_listed(self) -> dict[int, int]:
        return dict(sorted(self._listed))

    def _patient(self, name: str, paths: tuple[Path, ...]) -> Patient:
        key = _key(paths[0])
        last = self._last_listed.get(key[0]) if key else 0
        images = dict.fromkeys(self.modalities, paths)
        return Patient(name, images, paths, stack_size=None if last is None else last + 1)


def _key(path: Path) -> Key | None:
    match = _FILE.fullmatch(path.name)
    return (int(match[2]), int(match[3])) if match else None


def _up_to_last(found: Iterable[Key]) -> set[Key]:
    last = dict(sorted(found))
    return {(volume, index) for volume, end in last.items() for index in range(end)}


def _listed_slices(path: Path) -> Iterator[Key]:
    """Keys of the file names in ``slice_path``, whose folders are of another machine."""
    for row in read_rows(path, "slice_path"):
        key = _key(Path(re.split(r"[/\\]", row.get("slice_path", ""))[-1]))
        if key is not None:
            yield key


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open ``path``, and turn whatever HDF5 raises inside the block into one line.

    Raises:
        UserError: the file is absent, truncated, corrupt or not HDF5.
    """
    import h5py

    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise unreadable(path, "HDF5", error) from error


def numeric_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return the (H, W, C) dataset ``name``; none of it has been read.

    Raises:
        UserError: it is absent, not numeric, or declares a shape beyond reason.
    """
    import h5py

    if name not in file:
        raise UserError(f"{path} has no dataset '{name}'; it has: {', '.join(file) or 'nothing'}")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: '{name}' is not a dataset")
    if dataset.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{name}' holds {dataset.dtype}, not numbers")
    if dataset.shape is None or len(dataset.shape) != 3:
        raise UserError(
            f"{path}: '{name}' has the shape {dataset.shape}; expected (height, width, channels)"
        )
    check_shape(path, (dataset.shape[2], *dataset.shape[:2]))
    return dataset


def _read_slice(
    path: Path, channels: Sequence[int], with_labels: bool
) -> tuple[list[NDArray[Any]], NDArray[np.uint8]]:
    """Channels (H, W), and which planes of the mask mark each pixel (H, W)."""
    with reading(path) as file:
        image = _image(file, path)
        # Each channel by itself: its chunks are the only ones inflated.
        values = [image[..., channel] for channel in channels]
        for plane in values:
            finite_image(path, plane)
        frame = image.shape[:2]
        return values, _planes(file, path, frame) if with_labels else np.zeros(frame, np.uint8)


def _image(file: h5py.File, path: Path) -> h5py.Dataset:
    image, channels = numeric_dataset(file, "image", path), len(BratsH5.modalities)
    if image.shape[2] != channels:
        raise UserError(f"{path} holds {image.shape[2]} image channels; expected {channels}")
    return image


def _planes(file: h5py.File, path: Path, frame: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bits of the planes that mark a pixel (H, W): one a part, or a merged one's."""
    mask = numeric_dataset(file, "mask", path)
    check_same_shape(path, frame, mask.shape[:2])
    if mask.shape[2] not in (1, len(PARTS)):
        raise UserError(f"{path} holds {mask.shape[2]} mask planes; expected {len(PARTS)}, or 1")
    planes = mask[...]
    if planes.dtype != np.uint8 or planes.max(initial=0) > 1:
        planes = read_labels(path, planes, chosen="binary").labels // UNKNOWN_PART
    if planes.shape[2] == 1:
        return np.asarray(planes[..., 0] * np.uint8(MERGED))
    return np.asarray(planes[..., 0] | planes[..., 1] << 1 | planes[..., 2] << 2)


def _label_map(marked: NDArray[np.uint8]) -> LabelMap:
    """Canonical labels of the planes' bits; where planes overlap, the inner part wins."""
    table = np.zeros(MERGED + 1, np.uint8)
    for part in (OEDEMA, NON_ENHANCING, ENHANCING):
        bit = 1 << PARTS.index(part)
        table[[code for code in range(MERGED) if code & bit]] = part
    table[MERGED] = UNKNOWN_PART
    counts = np.bincount(marked[marked > 0], minlength=MERGED + 1)
    twice = counts[[code for code in range(MERGED) if code.bit_count() > 1]].sum()
    told = (f"mask planes overlap in {twice:,} px",) if twice else ()
    merged = bool(counts[MERGED])
    return LabelMap(table[marked], "binary" if merged else "planes", not merged, told)


def _spacing(path: Path) -> tuple[tuple[float, float, float] | None, tuple[str, ...]]:
    """The spacing that a file states in an attribute, else that of BraTS; and what to say of it."""
    with reading(path) as file:
        image = _image(file, path)
        if SPACING not in image.attrs:
            return SPACING_MM, ()
        stated = image.attrs.get_id(SPACING)  # nothing is read yet, however large it is
        values = [float(value) for value in image.attrs[SPACING]] if stated.shape == (3,) else []
    return plausible_spacing(path, values)

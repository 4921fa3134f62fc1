"""The Kaggle set of BraTS 2020 slices: ``volume_<V>_slice_<S>.h5``.

Each file holds ``image`` (240, 240, 4) float64, every channel z-scored over the
whole slice with its background, and ``mask`` (240, 240, 3) uint8, one plane per
tumour part. Slice S is z index S of the challenge's NIfTI volume V, neither
flipped nor transposed. The scanner's whole numbers are taken back from the scores,
so that all slices of a volume have one scale; see :mod:`seglab.data.lattice`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data import lattice
from seglab.data.files import (
    Spacing,
    check_file,
    check_same_shape,
    check_shape,
    finite_image,
    plausible_spacing,
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
from seglab.data.names import natural_key
from seglab.data.sources.base import SliceFiles, image_files, labelled
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
CHANNELS = 4
PARTS = (NON_ENHANCING, OEDEMA, ENHANCING)
"""What the planes of ``mask`` mark."""
MERGED = 8
"""Stands for a mask of one plane, among the bits of three."""


@SOURCES.register("brats-h5")
class BratsH5(SliceFiles):
    """BraTS 2020 as the Kaggle slice files volume_<V>_slice_<S>.h5.

    The root may be any folder above the files. Neither the CSVs nor all of the
    slices need be there.
    """

    name = "brats-h5"
    modalities = ("flair", "t1", "t1ce", "t2")
    upright = False
    mirror_axis = 0
    suffixes = (".h5",)
    pattern = re.compile(r"(volume_\d{1,6})_slice_(\d{1,4})\.h5", re.IGNORECASE)
    example = "volume_<V>_slice_<S>.h5"

    def patient_id(self, case: str) -> str:
        """As the challenge calls the volume."""
        return f"BraTS20_Training_{int(case.rpartition('_')[2]):03d}"

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Open each slice once; see ``Source``."""
        image_files(patient, modalities)
        paths = patient.images[modalities[0]]
        channels = [self.modalities.index(modality) for modality in modalities]
        scores: list[NDArray[np.float64]] = []
        marked = []
        for index, path in enumerate(paths):
            values, planes = _read_slice(path, channels, with_labels)
            if not scores:
                shape = (len(paths), *values[0].shape)
                check_shape(path, shape)
                scores = [np.empty(shape) for _ in modalities]
            check_same_shape(path, values[0].shape, shape[1:], "its volume")
            for stack, plane in zip(scores, values, strict=True):
                stack[index] = plane
            marked.append(planes)
        # Each is freed once it is restored: the scores of four modalities take 290 MB.
        restored = [lattice.one_scale(list(scores.pop(0))) for _ in modalities]
        volume = self._volume(patient, modalities, restored)
        return labelled(volume, paths[0], _label_map(np.stack(marked))) if with_labels else volume

    def missing_files(self) -> list[str]:
        """Slices that a CSV lists, or without one those skipped by the numbering."""
        found = {path.name for path in self._paths}
        listings = [path for path in self._paths if path.name in LISTINGS]
        expected = {name for path in listings for name in self._listed(path)}
        for patient in [] if expected else self.list_patients(strict=True):
            case, _, last = patient.files[-1].stem.rpartition("_")
            expected |= {f"{case}_{number}.h5" for number in range(int(last))}
        return sorted(expected - found, key=natural_key)

    def _listed(self, path: Path) -> Iterator[str]:
        """Names of files in ``slice_path``, whose folders are of another machine."""
        for row in read_rows(path, "slice_path"):
            name = re.split(r"[/\\]", row.get("slice_path", ""))[-1]
            if self.pattern.fullmatch(name):
                yield name

    def _volume(
        self,
        patient: Patient,
        modalities: Sequence[str],
        restored: Sequence[tuple[NDArray[np.float32], bool, str]],
    ) -> Volume:
        images, scales, told = zip(*restored, strict=True)
        paths = patient.images[modalities[0]]
        spacing_mm, remarks = _spacing(paths[0])
        numbers = [self.number(path) for path in paths]
        whole = 1 if None in numbers else round(STACK_MM / (spacing_mm or SPACING_MM)[0])
        indices = np.array([number or 0 for number in numbers], np.int32)
        scale_remarks = (f"{m}: {text}" for m, text in zip(modalities, told, strict=True) if text)
        return Volume(
            patient_id=patient.patient_id,
            images=images[0][None] if len(images) == 1 else np.stack(images),
            modalities=tuple(modalities),
            labels=np.zeros(images[0].shape, np.uint8),
            slice_indices=indices,
            stack_size=max(whole, int(indices[-1]) + 1),
            shared_scales=scales,
            grade=patient.grade,
            spacing_mm=spacing_mm,
            remarks=(*remarks, *scale_remarks),
        )


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open ``path``, and turn whatever HDF5 raises inside the block into a UserError."""
    import h5py

    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise unreadable(path, "HDF5", error) from error


def numeric_dataset(
    file: h5py.File, name: str, path: Path, planes: tuple[int, ...] = ()
) -> h5py.Dataset:
    """Return the (H, W, C) dataset ``name``, C one of ``planes``; none of it has been read.

    Raises:
        UserError: it is absent, not numeric, or of another shape or one beyond reason.
    """
    import h5py

    if name not in file:
        raise UserError(f"{path} has no dataset '{name}'; it has: {', '.join(file) or 'nothing'}")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{name}' holds no numbers")
    shape: tuple[int, ...] = dataset.shape or ()
    if len(shape) != 3 or (planes and shape[2] not in planes):
        wanted = f"(height, width, {' or '.join(map(str, planes))})"
        raise UserError(f"{path}: '{name}' has the shape {shape}; expected {wanted}")
    check_shape(path, (shape[2], *shape[:2]))
    return dataset


def _read_slice(
    path: Path, channels: Sequence[int], with_labels: bool
) -> tuple[list[NDArray[Any]], NDArray[np.uint8]]:
    """Channels (H, W), and which planes of the mask mark each pixel (H, W)."""
    with reading(path) as file:
        image = numeric_dataset(file, "image", path, (CHANNELS,))
        # Each channel by itself: its chunks are the only ones inflated.
        values = [image[..., channel] for channel in channels]
        for plane in values:
            finite_image(path, plane)
        frame = image.shape[:2]
        return values, _planes(file, path, frame) if with_labels else np.zeros(frame, np.uint8)


def _planes(file: h5py.File, path: Path, frame: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bits of the planes that mark a pixel (H, W): one a part, or a merged one's."""
    mask = numeric_dataset(file, "mask", path, (len(PARTS), 1))
    check_same_shape(path, mask.shape[:2], frame, "its image")
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


def _spacing(path: Path) -> tuple[Spacing | None, tuple[str, ...]]:
    """The spacing that a file states in an attribute, else that of BraTS; and what to tell."""
    with reading(path) as file:
        image = numeric_dataset(file, "image", path)
        if SPACING not in image.attrs:
            return SPACING_MM, ()
        stated = image.attrs.get_id(SPACING)  # nothing is read yet, however large it is
        values = [float(value) for value in image.attrs[SPACING]] if stated.shape == (3,) else []
    return plausible_spacing(path, values)

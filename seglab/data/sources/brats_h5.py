"""The Kaggle set of BraTS 2020 slices: ``volume_<V>_slice_<S>.h5``.

Each holds ``image`` (240, 240, 4) float64, every channel z-scored over the whole slice, and
``mask`` (240, 240, 3) uint8, a plane per tumour part. S is z of the challenge's NIfTI volume V.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.labels import ENHANCING, NON_ENHANCING, OEDEMA, UNKNOWN_PART, LabelMap, read_labels
from seglab.data.normalise import one_scale
from seglab.data.sources import base
from seglab.data.volume import Patient, Volume

if TYPE_CHECKING:
    import h5py

STACK_MM, SPACING_MM = 155, (1.0, 1.0, 1.0)
"""Height and spacing of every BraTS volume; the files of the set state none."""
SPACING = "spacing_mm"  # attribute of ``image`` in files that state it: (slice, row, column)
LISTINGS = ("meta_data.csv", "BraTS20 Training Metadata.csv")
"""Both names that the set's list of slices has been published under."""
INWARDS = {1: OEDEMA, 0: NON_ENHANCING, 2: ENHANCING}
"""Planes of ``mask``, outermost first → the part that each marks."""


@SOURCES.register("brats-h5")
class BratsH5(base.SliceFiles):
    """BraTS 2020 as Kaggle's slice files volume_<V>_slice_<S>.h5; some may be missing."""

    name = "brats-h5"
    modalities = ("flair", "t1", "t1ce", "t2")
    upright = False
    mirror_axis = 0
    suffixes, name_ends = (".h5",), ("",)
    pattern = re.compile(r"(volume_\d{1,6})_slice_(\d{1,4})\.h5", re.IGNORECASE)
    example = "volume_<V>_slice_<S>.h5"
    first_number = 0

    def patient_id(self, case: str) -> str:
        """As the challenge calls the volume, or a phantom set its phantom."""
        names = self.phantom.get("names") or "BraTS20_Training_"
        return f"{names}{int(case.rpartition('_')[2]):03d}"

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Open each slice once, and take the scanner's numbers back; see ``Source``."""
        import h5py

        base.image_files(patient, modalities)
        paths = patient.images[modalities[0]]
        channels = [self.modalities.index(modality) for modality in modalities]
        for index, path in enumerate(paths):
            with base.reading(path, "HDF5"), h5py.File(path) as file:
                image = _numbers(file, "image", path, (4,))
                if index == 0:
                    shape = len(paths), *image.shape[:2]
                    scores, labels = [np.empty(shape) for _ in channels], np.zeros(shape, np.uint8)
                    spacing_mm, told = _spacing(path, image)
                base.check_same_shape(path, image.shape[:2], shape[1:], "its volume")
                for stack, channel in zip(scores, channels, strict=True):
                    # Each channel by itself: its chunks are the only ones inflated.
                    stack[index] = plane = image[..., channel]
                    base.finite_image(path, plane)
                if with_labels:
                    labels[index] = _labels(file, path, shape[1:])
        # Each is freed once it is restored: the scores of four modalities take 290 MB.
        restored = [one_scale(list(scores.pop(0))) for _ in modalities]
        told += tuple(f"{m}: {r[2]}" for m, r in zip(modalities, restored, strict=True) if r[2])
        merged = bool((labels == UNKNOWN_PART).any())
        found = LabelMap(paths[0], labels, "binary" if merged else "planes", not merged)
        indices = self.numbers(paths)
        is_slices = self.pattern.fullmatch(paths[0].name)
        whole = round(STACK_MM / (spacing_mm or SPACING_MM)[0]) if is_slices else 1
        return base.as_volume(
            patient,
            modalities,
            [image for image, _, _ in restored],
            found if with_labels else None,
            told,
            shared_scales=tuple(shared for _, shared, _ in restored),
            slice_indices=indices,
            stack_size=max(whole, int(indices[-1]) + 1),
            spacing_mm=spacing_mm,
        )

    def listed_files(self) -> Iterator[str]:
        """Names of files in ``slice_path``, whose folders are of another machine."""
        for path in self._paths:
            for row in read_rows(path, "slice_path") if path.name in LISTINGS else ():
                name = re.split(r"[/\\]", row.get("slice_path", ""))[-1]
                if self.pattern.fullmatch(name):
                    yield name


def _numbers(file: h5py.File, name: str, path: Path, planes: tuple[int, ...]) -> h5py.Dataset:
    """The (H, W, C) dataset ``name`` of numbers, C one of ``planes``; none of it has been read."""
    if name not in file:
        raise UserError(f"{path} has no dataset '{name}'; it has: {', '.join(file) or 'nothing'}")
    dataset = file[name]
    # What is no dataset (a group, a type) has no such shape.
    shape: tuple[int, ...] = getattr(dataset, "shape", None) or ()
    if len(shape) != 3 or shape[2] not in planes:
        wanted = f"(height, width, {' or '.join(map(str, planes))})"
        raise UserError(f"{path}: '{name}' has the shape {shape}; expected {wanted}")
    if dataset.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{name}' holds no numbers")
    return dataset


def _labels(file: h5py.File, path: Path, frame: tuple[int, ...]) -> NDArray[np.uint8]:
    """Canonical labels (H, W); where planes overlap, the inner part wins."""
    mask = _numbers(file, "mask", path, (3, 1))
    base.check_same_shape(path, mask.shape[:2], frame, "its image")
    planes = mask[...]
    if planes.dtype != np.uint8 or planes.max(initial=0) > 1:
        planes = read_labels(path, planes, chosen="binary").labels // UNKNOWN_PART
    if planes.shape[2] == 1:
        return np.asarray(planes[..., 0] * np.uint8(UNKNOWN_PART))
    labels = np.zeros(frame, np.uint8)
    for plane, part in INWARDS.items():
        labels[planes[..., plane] != 0] = part
    return labels


def _spacing(path: Path, image: h5py.Dataset) -> tuple[base.Spacing | None, tuple[str, ...]]:
    if SPACING not in image.attrs:
        return SPACING_MM, ()
    stated = image.attrs.get_id(SPACING)  # nothing is read yet, however large it is
    values: list[Any] = list(map(float, image.attrs[SPACING])) if stated.shape == (3,) else []
    return base.plausible_spacing(path, values)

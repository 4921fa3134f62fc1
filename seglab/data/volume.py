"""What every source gives: patients as listed, and each patient's modalities with one label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

PLANES = {"axial": "SLP", "coronal": "PLI", "sagittal": "LPI"}
"""Plane → where slices, rows and columns of (S, H, W) run to in the patient: superior or inferior,
left, posterior. Axial slices of files lie so, or ``UPRIGHT``."""
UPRIGHT = "SPL"
THICKEST = 3.0  # times the pixel: across thicker slices there are steps to see, no anatomy
_LINES = {"S": 0, "I": 0, "L": 1, "P": 2}

Item = TypeVar("Item")
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass
class Patient:
    """One patient as found by listing files; no pixel has been read."""

    patient_id: str
    images: dict[str, tuple[Path, ...]]
    """Modality → its files, in slice order where a file is a slice."""
    label_files: tuple[Path, ...] = ()  # files of the segmentation; empty where there is none
    grade: str | None = None  # HGG or LGG (BraTS), G2 or G3 (LGG set); None where unknown
    channels: dict[str, int] = field(default_factory=dict)
    """Modality → its place along the last axis, where one file holds several modalities."""
    label_map: dict[int, int] | None = None  # label in the file → canonical one, if a table tells
    table: Path | None = None  # the dataset.json that tells its modalities and labels
    frame: str | None = None
    """Modality on whose grid all are read, if it is there; else that of the first that is read."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every distinct file, images first."""
        every = (*self.images.values(), self.label_files)
        return tuple(dict.fromkeys(path for paths in every for path in paths))


@dataclass(frozen=True)
class Volume:
    """The slices of one patient, on the source's own grid."""

    patient_id: str
    images: NDArray[np.float32]
    """(M, S, H, W), finite, in the scanner's units; the axes of NIfTI files turned to LPS."""
    modalities: tuple[str, ...]  # M names
    labels: NDArray[np.uint8]
    """(S, H, W) canonical label map, see :mod:`seglab.data.labels`; zeros where not read."""
    slice_indices: NDArray[np.int32]  # (S,) ascending places in the full stack, perhaps with gaps
    stack_size: int  # slices of the full stack (155 for BraTS)
    shared_scales: tuple[bool, ...]  # (M,) whether all slices of it share one intensity scale
    grade: str | None
    spacing_mm: tuple[float, float, float] | None = None
    """(slice, row, column), or None where the files do not tell, or tell nonsense."""
    parts_known: bool = False  # False where a merged mask tells only tumour (label 4) from the rest
    convention: str = ""  # by which convention the labels were read; empty where they were not
    remarks: tuple[str, ...] = ()
    """What a reader should be told: units converted, orientation unknown, labels 3 and 4, …"""

    def of(self, modalities: Sequence[str]) -> Volume:
        """The same with these modalities, in this order."""
        places = [self.modalities.index(name) for name in modalities]
        scales = tuple(self.shared_scales[place] for place in places)
        images = self.images[places]
        return replace(self, images=images, modalities=tuple(modalities), shared_scales=scales)

    @property
    def why_one_plane(self) -> str:
        """Why slices of another plane cannot be cut from it; empty where they can."""
        found, (height, width) = len(self.slice_indices), self.labels.shape[1:]
        if 2 * found < self.stack_size or np.any(np.diff(self.slice_indices) != 1):
            return f"its {found} slices of {self.stack_size} are scattered"
        if self.spacing_mm is None:
            ratio, told = max(height, width) / found, f"{found} slices of {height}×{width} pixels"
        else:
            step, pixel = self.spacing_mm[0], min(self.spacing_mm[1:])
            ratio, told = step / pixel, f"slices {step:g} mm apart at {pixel:.3g} mm a pixel"
        return f"{told} are too thick (above {THICKEST:g} to 1)" if ratio > THICKEST else ""

    def transposed(self) -> Volume:
        """Exchange rows and columns, for a model whose training slices lay the other way."""
        mm = self.spacing_mm
        return replace(
            self,
            images=np.ascontiguousarray(np.swapaxes(self.images, -2, -1)),
            labels=np.ascontiguousarray(np.swapaxes(self.labels, -2, -1)),
            spacing_mm=None if mm is None else (mm[0], mm[2], mm[1]),
        )


def reorder(values: Sequence[Item], of: str, to: str) -> tuple[Item, ...]:
    """Order what belongs to the axes ``of`` as the axes ``to``, see ``PLANES``."""
    lines = [_LINES[axis] for axis in of]
    return tuple(values[lines.index(_LINES[axis])] for axis in to)


def turn(stack: NDArray[Scalar], of: str, to: str) -> NDArray[Scalar]:
    """Turn (S, H, W) whose axes run ``of`` so that they run ``to``; a view."""
    turned = stack.transpose(reorder(range(3), of, to))
    return np.flip(turned, tuple(place for place, axis in enumerate(to) if axis not in of))

"""The Kaggle set of lower-grade gliomas: ``<case>_<n>.tif`` and ``<case>_<n>_mask.tif``.

Slices are upright, 256 × 256 × 3 uint8: before contrast, FLAIR, after contrast
(Buda 2019). Where a sequence was not acquired the set repeats FLAIR in its place.
Spacing is not in the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.core.tables import read_rows
from seglab.data.sources.base import Patient, Source, Volume, natural_key
from seglab.data.sources.files import (
    binary_mask,
    check_same_shape,
    same_name,
)
from seglab.data.sources.identity_map import tcga_person
from seglab.data.sources.tiff import pixels, reading_tiff

GRADES = {"1": "G2", "2": "G3"}
"""Codes of ``neoplasm_histologic_grade``: 51 and 58 patients, as the paper counts II and III."""
_FILE = re.compile(r"(TCGA_\w+?)_([1-9]\d{0,3})(_mask)?\.tif")


@dataclass(frozen=True)
class _Slice:
    case: str
    number: int
    is_mask: bool


@SOURCES.register("lgg-tif")
class LggTif(Source):
    """Lower-grade gliomas (TCGA) as the Kaggle slice files <case>_<n>.tif and <case>_<n>_mask.tif.

    Files count from 1; ``Volume.slice_indices`` is that number minus 1.
    """

    name = "lgg-tif"
    channel_names = ("T1 before contrast", "FLAIR", "T1 after contrast")
    default_channel = 1
    plane_names = ("tumour",)
    upright = True
    mirror_axis = 1
    keeps_volume_scale = True

    def patients(self) -> list[Patient]:
        """List the cases that have at least one slice; see ``Source``."""
        images = [slice_ for slice_ in self._files if not slice_.is_mask]
        if not images:
            raise UserError(f"{self.root} holds no file named TCGA_<case>_<n>.tif")
        numbers: dict[str, list[int]] = {}
        for slice_ in images:
            numbers.setdefault(slice_.case, []).append(slice_.number)
        return [
            Patient(case, self._files_of(case, sorted(numbers[case])), self._grade(case))
            for case in sorted(numbers, key=natural_key)
        ]

    def read(self, patient: Patient) -> Volume:
        """Read the image channel and the mask of each slice; see ``Source``."""
        slices = [path for path in patient.files if not _parse(path).is_mask]
        pairs = [self._read_pair(path) for path in slices]
        for path, (image, _) in zip(slices, pairs, strict=True):
            if image.shape != pairs[0][0].shape:
                raise UserError(
                    f"{path} has the shape {image.shape}; its stack has {pairs[0][0].shape}"
                )
        numbers = [_parse(path).number for path in slices]
        return Volume(
            patient_id=patient.patient_id,
            image=np.stack([image[..., self.channel] for image, _ in pairs]).astype(np.float32),
            mask=np.stack([mask for _, mask in pairs]),
            slice_indices=np.array(numbers, dtype=np.int32) - 1,
            stack_size=max(numbers),
            spacing_mm=None,
            grade=patient.grade,
        )

    def missing_files(self) -> list[str]:
        """Images and masks skipped by the numbering of a case, or without their other half."""
        last: dict[str, int] = {}
        for slice_ in self._files:
            last[slice_.case] = max(last.get(slice_.case, 0), slice_.number)
        expected = {
            _Slice(case, number, is_mask)
            for case, end in last.items()
            for number in range(1, end + 1)
            for is_mask in (False, True)
        }
        return sorted(map(_name, expected - self._files.keys()), key=natural_key)

    def read_channels(self, path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read image (3, H, W) and mask (1, H, W) of one slice; see ``Source``."""
        image, mask = self._read_pair(path)
        return np.moveaxis(image, -1, 0).astype(np.float32), mask[None]

    @cached_property
    def _files(self) -> dict[_Slice, Path]:
        found: dict[_Slice, Path] = {}
        for path in self._paths:
            if not _FILE.fullmatch(path.name) or self._is_second_copy(path):
                continue
            slice_ = _parse(path)
            if slice_ in found:
                raise same_name(found[slice_], path, _name(slice_))
            found[slice_] = path
        return found

    def _is_second_copy(self, path: Path) -> bool:
        """Kaggle's archive holds the set twice: kaggle_3m, and again inside another folder."""
        first = self.root / "kaggle_3m"
        return first.is_dir() and not path.is_relative_to(first)

    @cached_property
    def _grades(self) -> dict[str, str]:
        found = [path for path in self._paths if path.name == "data.csv"]
        return _read_grades(found[0]) if found else {}

    def _grade(self, case: str) -> str | None:
        return self._grades.get(tcga_person(case) or case)

    def _files_of(self, case: str, numbers: list[int]) -> tuple[Path, ...]:
        slices = [_Slice(case, number, is_mask) for number in numbers for is_mask in (False, True)]
        return tuple(self._files[slice_] for slice_ in slices if slice_ in self._files)

    def _read_pair(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and mask (H, W) of one slice."""
        slice_ = _parse(path)
        mask_path = path.with_name(_name(_Slice(slice_.case, slice_.number, True)))
        image, mask = _read_tiff(path, "RGB"), _read_tiff(mask_path, "L")
        check_same_shape(mask_path, image.shape[:2], mask.shape[:2])
        return image, binary_mask(mask_path, mask)


def _parse(path: Path) -> _Slice:
    match = _FILE.fullmatch(path.name)
    assert match is not None, path
    return _Slice(match[1], int(match[2]), match[3] is not None)


def _name(slice_: _Slice) -> str:
    return f"{slice_.case}_{slice_.number}{'_mask' if slice_.is_mask else ''}.tif"


def _read_tiff(path: Path, mode: str) -> NDArray[np.uint8]:
    """Read (H, W, 3) for mode ``RGB`` or (H, W) for mode ``L``.

    Raises:
        UserError: absent, unreadable, of other channels, or too large.
    """
    channels = {"RGB": 3, "L": 1}
    with reading_tiff(path) as image:
        if image.mode != mode:
            found = channels.get(image.mode, image.mode)
            raise UserError(f"{path} has {found} channel(s); expected {channels[mode]} of uint8")
        return pixels(image)


def _read_grades(path: Path) -> dict[str, str]:
    """Person (``TCGA-CS-4941``) → ``G2`` or ``G3``, from the set's ``data.csv``."""
    coded = ((row.get("Patient"), row.get("neoplasm_histologic_grade")) for row in read_rows(path))
    return {
        tcga_person(patient) or patient: GRADES[code]
        for patient, code in coded
        if patient and code in GRADES
    }

"""BraTS 2018 to 2021 as published: one NIfTI volume per modality, and one of labels."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.sources.base import Patient, Source, Volume, natural_key
from seglab.data.sources.files import (
    binary_mask,
    check_same_shape,
    finite_image,
    same_name,
)
from seglab.data.sources.nifti import read_nifti
from seglab.data.sources.orientation import Turn, turn_to_brats

MODALITIES = ("flair", "t1", "t1ce", "t2")
_FILE = re.compile(r"(.+)_(flair|t1|t1ce|t2|seg)\.nii(?:\.gz)?", re.IGNORECASE)
_ODD_LABELS = re.compile(r".*seg.*\.nii(?:\.gz)?", re.IGNORECASE)
_GRADES = ("HGG", "LGG")

Parts = dict[str, Path]
"""A modality or ``seg`` → its file, for one patient."""


@SOURCES.register("brats-nifti")
class BratsNifti(Source):
    """BraTS 2018 to 2021 as NIfTI volumes <patient>_flair.nii[.gz] and <patient>_seg.nii[.gz].

    Patients may lie in ``HGG``/``LGG`` folders, which then tell the grade; otherwise
    ``name_mapping.csv`` does. A patient's ``files`` are the chosen modality and the
    segmentation; one of them that is absent is told by ``read``.
    """

    name = "brats-nifti"
    channel_names = ("FLAIR", "T1", "T1ce", "T2")
    default_channel = 0
    plane_names = ("label 1", "label 2", "label 3", "label 4")
    upright = False
    mirror_axis = 0
    keeps_volume_scale = True

    def patients(self) -> list[Patient]:
        """List every patient with at least one file; see ``Source``."""
        if not self._cases:
            raise UserError(f"{self.root} holds no file named <patient>_flair.nii or .nii.gz")
        return [self._patient(patient_id, parts) for patient_id, parts in self._cases.items()]

    def read(self, patient: Patient) -> Volume:
        """Read the chosen modality and the merged labels as BraTS lies; see ``Source``."""
        image_path, mask_path = (self._file(patient, part) for part in self._wanted)
        image, spacing_mm = read_nifti(image_path)
        labels, _ = read_nifti(mask_path)
        check_same_shape(mask_path, image.shape, labels.shape)
        turn = _common_turn(image_path, mask_path)
        if turn is not None and turn.is_needed:
            image, labels = (np.ascontiguousarray(turn.forth(each)) for each in (image, labels))
            spacing_mm = None if spacing_mm is None else turn.spacing(spacing_mm)
        return Volume(
            patient_id=patient.patient_id,
            image=finite_image(image_path, image),
            mask=binary_mask(mask_path, labels),
            slice_indices=np.arange(len(image), dtype=np.int32),
            stack_size=len(image),
            spacing_mm=spacing_mm,
            grade=patient.grade,
        )

    def missing_files(self) -> list[str]:
        """The chosen modality or the segmentation of each patient that lacks it."""
        return [
            f"{patient_id}_{part}.nii.gz"
            for patient_id, parts in self._cases.items()
            for part in self._wanted
            if part not in parts
        ]

    def read_channels(self, path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read image (4, S, H, W) and labels 1 to 4 (4, S, H, W); see ``Source``.

        Modalities without a file are NaN.
        """
        parts = next((parts for parts in self._cases.values() if path in parts.values()), {})
        if "seg" not in parts:
            raise UserError(f"{path} has no segmentation beside it")
        labels, _ = read_nifti(parts["seg"])
        image = np.full((len(MODALITIES), *labels.shape), np.nan, dtype=np.float32)
        for index, modality in enumerate(MODALITIES):
            if modality in parts:
                values, _ = read_nifti(parts[modality])
                check_same_shape(parts["seg"], values.shape, labels.shape)
                image[index] = finite_image(parts[modality], values)
        return image, np.stack([labels == label for label in range(1, 5)]).astype(np.uint8)

    @property
    def _wanted(self) -> tuple[str, str]:
        return MODALITIES[self.channel], "seg"

    @cached_property
    def _cases(self) -> dict[str, Parts]:
        cases: dict[str, Parts] = {}
        odd: list[Path] = []
        for path in self._paths:
            match = _FILE.fullmatch(path.name)
            if match is not None:
                _add(cases.setdefault(match[1], {}), match[2].lower(), path)
            elif _ODD_LABELS.fullmatch(path.name):
                odd.append(path)
        _adopt(odd, cases)
        return dict(sorted(cases.items(), key=lambda item: natural_key(item[0])))

    def _patient(self, patient_id: str, parts: Parts) -> Patient:
        files = tuple(parts[part] for part in self._wanted if part in parts)
        below = next(iter(parts.values())).relative_to(self.root).parts
        folders = {name.upper() for name in (self.root.name, *below)}
        grade = next((name for name in _GRADES if name in folders), None)
        return Patient(patient_id, files, grade or self.names.grade(patient_id))

    def _file(self, patient: Patient, part: str) -> Path:
        for path in patient.files:
            if _part(path) == part:
                return path
        where = patient.files[0].parent if patient.files else self.root
        raise UserError(f"{where} has no file {patient.patient_id}_{part}.nii or .nii.gz")


def _common_turn(image_path: Path, mask_path: Path) -> Turn | None:
    """How to turn both files; a mask that states no axes is taken to lie as its image."""
    turn, of_mask = turn_to_brats(image_path), turn_to_brats(mask_path)
    if turn and of_mask and turn.axes != of_mask.axes:
        raise UserError(
            f"{mask_path}: its axes point to {of_mask.axes}, those of {image_path.name} to "
            f"{turn.axes}: image and mask must lie alike"
        )
    return turn


def _part(path: Path) -> str | None:
    match = _FILE.fullmatch(path.name)
    if match is not None:
        return match[2].lower()
    return "seg" if _ODD_LABELS.fullmatch(path.name) else None


def _add(parts: Parts, part: str, path: Path) -> None:
    if part in parts:
        raise same_name(parts[part], path, f"the {part} volume of one patient")
    parts[part] = path


def _adopt(odd: list[Path], cases: dict[str, Parts]) -> None:
    """Take a lone, oddly named segmentation for the only patient of its folder.

    BraTS 2020 ships ``BraTS20_Training_355`` with ``W39_1998.09.19_Segm.nii``.
    """
    for path in odd:
        here = [
            parts for parts in cases.values() if path.parent in {p.parent for p in parts.values()}
        ]
        lone = sum(other.parent == path.parent for other in odd) == 1
        if lone and len(here) == 1:
            here[0].setdefault("seg", path)

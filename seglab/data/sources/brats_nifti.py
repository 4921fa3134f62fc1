"""NIfTI volumes: BraTS of every year and other sets, see :mod:`seglab.data.names`.

Volumes are turned to the axes of BraTS, however they were stored.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.files import check_file, finite_image, unreadable
from seglab.data.labels import LabelMap, read_labels
from seglab.data.names import is_plain_segmentation, nifti_patients
from seglab.data.sources.base import Source, image_files, labelled
from seglab.data.sources.header import Header, is_gzipped, read_header
from seglab.data.volume import Patient, Volume

_TRAILER_BYTES = 2**16
"""What may follow the data, and is read only to reach the checksum behind it."""
_GRADES = ("HGG", "LGG")


@SOURCES.register("brats-nifti")
class BratsNifti(Source):
    """NIfTI volumes as BraTS of any year, nnU-Net, MSD, BIDS, UPENN-GBM or UCSF-PDGM name them.

    Patients may lie in ``HGG``/``LGG`` folders, which then tell the grade; otherwise
    ``name_mapping.csv`` does.
    """

    name = "brats-nifti"
    modalities = ("flair", "t1", "t1ce", "t2")
    upright = False
    mirror_axis = 0
    suffixes = (".nii", ".nii.gz")

    def list_patients(self, *, strict: bool) -> list[Patient]:
        """List every patient with at least one image; see ``Source``."""
        paths = [path for path in self._paths if not (strict and _is_test_image(path))]
        found = nifti_patients(paths, strict=strict)
        if strict and not found:
            raise UserError(f"{self.root} holds no file named <patient>_flair.nii or .nii.gz")
        return [replace(patient, grade=self._grade(patient)) for patient in found]

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Read the modalities, which must lie on each other, and the labels; see ``Source``."""
        paths, remarks = image_files(patient, modalities)
        read = {path: read_nifti(path) for path in dict.fromkeys(paths)}
        _, first = read[paths[0]]
        for _, header in read.values():
            header.check_lies_on(first)
            remarks += header.remarks
        images = []
        for path, modality in zip(paths, modalities, strict=True):
            values = _one_volume(path, read[path][0], patient.channels.get(modality))
            images.append(finite_image(path, read[path][1].to_lps(values)))
        volume = Volume(
            patient_id=patient.patient_id,
            images=images[0][None] if len(images) == 1 else np.stack(images),
            modalities=tuple(modalities),
            labels=np.zeros(first.grid, np.uint8),
            parts_known=False,
            slice_indices=np.arange(first.grid[0], dtype=np.int32),
            stack_size=first.grid[0],
            spacing_mm=first.spacing_mm,
            affine=first.affine,
            shared_scales=(True,) * len(images),
            grade=patient.grade,
            remarks=remarks,
        )
        if not with_labels:
            return volume
        path = _label_file(patient)
        return labelled(volume, path, self._labels(patient, path, first))

    def missing_files(self) -> list[str]:
        """FLAIR, or the first modality that any patient has, and segmentations that are absent."""
        found = self.list_patients(strict=True)
        main = next(name for name in self.modalities if any(name in p.images for p in found))
        return [
            f"{patient.patient_id}_{part}.nii.gz"
            for patient in found
            for part, there in ((main, main in patient.images), ("seg", patient.label_files))
            if not there
        ]

    def _labels(self, patient: Patient, path: Path, image: Header) -> LabelMap:
        stored, header = read_nifti(path)
        if header.affine is None or image.affine is None:  # it is taken to lie as its image
            header = replace(header, turn=image.turn, back=image.back)
        header.check_lies_on(image)
        stored = _one_volume(path, stored, None)
        name = patient.patient_id
        found = read_labels(path, stored, name=name, chosen=self.labels, listed=patient.label_map)
        told = () if is_plain_segmentation(path, name) else (f"segmentation: {path.name}",)
        labels = np.ascontiguousarray(header.to_lps(found.labels))
        return replace(found, labels=labels, remarks=(*told, *found.remarks))

    def _grade(self, patient: Patient) -> str | None:
        path = patient.files[0]
        below = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        folders = {name.upper() for name in (self.root.name, *below)}
        return next((name for name in _GRADES if name in folders), None)


def read_nifti(path: Path) -> tuple[NDArray[Any], Header]:
    """Read a file as stored, header scaling applied: (x, y, z) or (x, y, z, modality).

    Raises:
        UserError: absent, damaged, or see :func:`seglab.data.sources.header.read_header`.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.loadsave import load
    from nibabel.spatialimages import HeaderDataError

    check_file(path)
    try:
        image: Any = load(path)
        header = read_header(path, image)
        return _values(path, image.dataobj), header
    except (
        OSError, EOFError, ValueError, MemoryError, OverflowError,
        ImageFileError, HeaderDataError, zlib.error,
    ) as error:  # fmt: skip
        raise unreadable(path, "NIfTI", error) from error


def _values(path: Path, proxy: Any) -> NDArray[Any]:
    from nibabel.arrayproxy import ArrayProxy

    if not is_gzipped(path):
        return np.asarray(proxy)
    about = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    with gzip.open(path) as file:
        values = np.asarray(ArrayProxy(file, about))
        file.read(_TRAILER_BYTES)  # at the end of the stream its checksum is compared
    return values


def _one_volume(path: Path, values: NDArray[Any], channel: int | None) -> NDArray[Any]:
    """(x, y, z) of a file that may have a fourth axis of modalities, or axes of length 1."""
    if channel is not None and values.ndim == 4 and channel < values.shape[3]:
        return values[..., channel]
    if values.size > np.prod(values.shape[:3]):
        raise UserError(f"{path} is {values.ndim}-D, shape {values.shape}; expected one modality")
    return values.reshape(values.shape[:3], order="A")


def _label_file(patient: Patient) -> Path:
    if len(patient.label_files) == 1:
        return patient.label_files[0]
    folder, name = patient.files[0].parent, patient.patient_id
    if not patient.label_files:
        raise UserError(f"{name} has no segmentation: no {name}_seg.nii or .nii.gz in {folder}")
    some = " and ".join(str(path) for path in patient.label_files)
    raise UserError(f"{name} has more than one segmentation: {some}; keep one")


def _is_test_image(path: Path) -> bool:
    """Images without labels beside those of training, in nnU-Net and MSD sets."""
    return path.parent.name == "imagesTs" and (path.parents[1] / "imagesTr").is_dir()

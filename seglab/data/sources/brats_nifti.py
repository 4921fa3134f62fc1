"""NIfTI volumes: BraTS of every year and other sets, see :mod:`seglab.data.names`.

Volumes are turned to the axes of BraTS, however they were stored.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.labels import LabelMap, read_labels
from seglab.data.names import is_plain_segmentation, nifti_patients
from seglab.data.sources import base
from seglab.data.volume import Patient, Volume

AXES = ("L", "P", "S")  # where the axes of a BraTS array point to: left, posterior, superior
FURTHEST = 0.5  # voxels by which the corners of two files of one patient may lie apart
SAME = 0.02  # relative difference of two statements of one spacing
MAX_DEFLATE_RATIO = 1032
"""zlib cannot shrink more than this, so a compressed file bounds what it can hold."""
_TO_MM = {1: 1000.0, 3: 0.001}
"""Code of a unit (metre, micrometre) → millimetres; all else is taken for millimetres."""
_AS_STORED = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
_TRAILER_BYTES = 2**16  # what may follow the data, and is read only to reach the checksum behind it

Array = NDArray[Any]


@SOURCES.register("brats-nifti")
class BratsNifti(base.Source):
    """NIfTI volumes as BraTS of any year, nnU-Net, MSD, BIDS, UPENN-GBM or UCSF-PDGM name them.

    The grade is told by folders ``HGG`` and ``LGG``, or else by ``name_mapping.csv``.
    """

    name = "brats-nifti"
    modalities = ("flair", "t1", "t1ce", "t2")
    upright = False
    mirror_axis = 0
    suffixes = (".nii", ".nii.gz")

    def list_patients(self, *, strict: bool) -> list[Patient]:
        """List every patient with at least one image; see ``Source``."""
        # The sets of nnU-Net and the MSD have images without labels in imagesTs.
        roots = {path.parent.parent for path in self._paths if path.parent.name == "imagesTr"}
        paths = [
            path
            for path in self._paths
            if not (strict and path.parent.name == "imagesTs" and path.parent.parent in roots)
        ]
        found = nifti_patients(paths, strict=strict)
        if strict and not found:
            raise self.no_file("<patient>_flair.nii or .nii.gz")
        above = max(0, len(self.root.parts) - 1)
        for patient in found:
            folders = {name.upper() for name in patient.files[0].parts[above:]}
            patient.grade = next((name for name in ("HGG", "LGG") if name in folders), None)
        return found

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Read the modalities, which must lie on each other, and the labels; see ``Source``."""
        paths, told = base.image_files(patient, modalities)
        read = {path: read_nifti(path) for path in dict.fromkeys(paths)}
        frame = patient.images.get(patient.frame or "", paths)[0]
        first = read[frame][1] if frame in read else _header_of(frame)
        for path, (values, header) in read.items():
            read[path] = values, header.laid_on(first)
            told += read[path][1].remarks
        images = []
        for path, modality in zip(paths, modalities, strict=True):
            values = _one_volume(path, read[path][0], patient.channels.get(modality))
            images.append(base.finite_image(path, read[path][1].to_lps(values)))
        return base.as_volume(
            patient,
            modalities,
            images,
            self._labels(patient, first) if with_labels else None,
            told,
            slice_indices=np.arange(first.size[2], dtype=np.int32),
            stack_size=first.size[2],
            spacing_mm=first.spacing_mm,
        )

    def _labels(self, patient: Patient, image: Header) -> LabelMap:
        name, paths = patient.patient_id, patient.label_files
        if len(paths) > 1:
            some = " and ".join(map(str, paths))
            raise UserError(f"{name} has more than one segmentation: {some}; keep one")
        if not paths:
            folder = patient.files[0].parent
            raise UserError(f"{name} has no segmentation: no {name}_seg.nii or .nii.gz in {folder}")
        path = paths[0]
        stored, header = read_nifti(path)
        header = header.laid_on(image)
        stored = _one_volume(path, stored, None).T  # C order, as NumPy picks fastest
        found = read_labels(path, stored, name=name, chosen=self.labels, listed=patient.label_map)
        told = () if is_plain_segmentation(path, name) else (f"segmentation: {path.name}",)
        labels = np.ascontiguousarray(header.to_lps(found.labels.T))
        return replace(found, labels=labels, remarks=(*told, *found.remarks))


@dataclass(frozen=True)
class Header:
    """How a volume lies, as stored and turned to ``AXES``."""

    path: Path
    shape: tuple[int, ...]  # (x, y, z) as stored
    turn: Array
    """Transform of nibabel to ``AXES``; as stored where the header states no orientation."""
    affine: Array | None
    """(4, 4) from (row, column, slice) of the turned volume to mm; None where not stated."""
    spacing_mm: base.Spacing | None  # (slice, row, column) of the turned volume
    remarks: tuple[str, ...]

    def to_lps(self, values: Array) -> Array:
        """(x, y, z) as stored to (S, H, W) as BraTS lies; a view."""
        from nibabel.orientations import apply_orientation

        return np.moveaxis(apply_orientation(values, self.turn), -1, 0)

    def from_lps(self, stack: Array) -> Array:
        """(S, H, W) as BraTS lies to (x, y, z) as stored; a view."""
        from nibabel.orientations import apply_orientation, ornt_transform

        back = ornt_transform(_AS_STORED, self.turn)
        return np.asarray(apply_orientation(np.moveaxis(stack, 0, -1), back))

    @property
    def size(self) -> tuple[int, ...]:
        """(rows, columns, slices) of the turned volume, as a file of BraTS states its shape."""
        return tuple(self.shape[axis] for axis in np.argsort(self.turn[:, 0]))

    def laid_on(self, other: Header) -> Header:
        """Turn as ``other`` where not both state how they lie, else as stated.

        Raises UserError for another shape than ``other``'s, or corners that lie apart.
        """
        if self.affine is None or other.affine is None:
            told = f"{self.path.name} is taken to lie as {other.path.name}"
            more = () if np.array_equal(self.turn, other.turn) else (told,)
            laid = replace(self, turn=other.turn, remarks=(*self.remarks, *more))
            base.check_same_shape(laid.path, laid.size, other.size, other.path.name)
            return laid
        base.check_same_shape(self.path, self.size, other.size, other.path.name)
        corners = _corners(self.size)
        apart = np.abs(np.linalg.solve(other.affine, self.affine @ corners) - corners).max()
        if not apart <= FURTHEST:
            told = f"{self.path} lies elsewhere than {other.path.name}: by their affines"
            raise UserError(f"{told} corners are {apart:.1f} voxels apart, {FURTHEST} are allowed")
        return self


def read_nifti(path: Path) -> tuple[Array, Header]:
    """Read a file as stored, header scaling applied: (x, y, z) or (x, y, z, modality)."""
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.loadsave import load

    with base.reading(path, "NIfTI"):
        image: Any = load(path)
        header, proxy = read_header(path, image), image.dataobj
        if not is_gzipped(path):
            return np.asarray(proxy), header
        about = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
        with gzip.open(path) as file:
            values = np.asarray(ArrayProxy(file, about))
            file.read(_TRAILER_BYTES)  # at the end of the stream its checksum is compared
        return values, header


def _header_of(path: Path) -> Header:
    from nibabel.loadsave import load

    with base.reading(path, "NIfTI"):
        return read_header(path, load(path))


def read_header(path: Path, image: Any) -> Header:
    """Read how a volume that nibabel has opened lies; a UserError for what is none."""
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    _check_declared(path, image)
    shape = tuple(int(size) for size in image.shape[:3])
    to_mm = _TO_MM.get(int(image.header["xyzt_units"]) % 8, 1.0)
    remarks = [f"{path.name} is in units of {to_mm:g} mm: converted"] if to_mm != 1 else []
    turn, affine = _AS_STORED, None
    steps = to_mm * np.array(image.header.get_zooms()[:3], float)
    if (here := _orientation(image)) is not None:
        turn = ornt_transform(here, axcodes2ornt(AXES))
        affine = np.diag([to_mm, to_mm, to_mm, 1]) @ image.affine @ inv_ornt_aff(turn, shape)
        steps = voxel_sizes(affine)
        remarks += _disagreements(path, image)
    else:
        unknown = f"orientation is not stated in {path.name}, or as the identity"
        remarks.append(f"{unknown}: taken as stored")
    spacing_mm, told = base.plausible_spacing(path, [float(step) for step in np.roll(steps, 1)])
    return Header(path, shape, turn, affine, spacing_mm, (*remarks, *told))


def is_gzipped(path: Path) -> bool:
    """Whether the name says so, as nibabel takes it: in capitals too."""
    return path.suffix.lower() == ".gz"


def _check_declared(path: Path, image: Any) -> None:
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 3:
        raise UserError(f"{path} is {len(shape)}-D, shape {shape}; expected a volume")
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise UserError(f"{path} holds {dtype}, not plain numbers")
    needed = math.prod(shape) * dtype.itemsize + int(image.dataobj.offset)
    held = path.stat().st_size
    if needed > held * (MAX_DEFLATE_RATIO if is_gzipped(path) else 1):
        told = f"{path} declares {needed} bytes of data, which {held} bytes on disk cannot hold"
        raise UserError(f"{told}: truncated, or a wrong header")


def _orientation(image: Any) -> Array | None:
    """By nibabel, of an affine that the header states and that maps somewhere; else None."""
    from nibabel.orientations import io_orientation

    affine, header = image.affine, image.header
    stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    # The identity is what programs write that know no orientation.
    if not stated or np.array_equal(affine, np.eye(4)) or not np.isfinite(affine).all():
        return None
    found = io_orientation(affine)
    is_sound = np.linalg.matrix_rank(affine[:3, :3]) == 3 and not np.isnan(found).any()
    return found if is_sound else None


def _disagreements(path: Path, image: Any) -> Iterator[str]:
    from nibabel.affines import voxel_sizes
    from nibabel.spatialimages import HeaderDataError

    header = image.header
    used = "sform" if int(header["sform_code"]) > 0 else "qform"
    steps, pixdim = voxel_sizes(image.affine), np.array(header.get_zooms()[:3], float)
    if not np.allclose(steps, pixdim, rtol=SAME):
        ours, theirs = (" × ".join(f"{step:g}" for step in each) for each in (steps, pixdim))
        yield f"{path.name}: spacing {ours} by its {used}, {theirs} by pixdim: the {used} is used"
    with suppress(HeaderDataError, ValueError):  # a qform that is not used may be nonsense
        other = header.get_qform() if int(header["qform_code"]) > 0 else image.affine
        lies = (image.affine - other) @ _corners(image.shape[:3])
        apart = float(np.sqrt((lies**2).sum(axis=0)).max())
        if not apart <= FURTHEST * steps.max():
            yield f"{path.name}: its sform and qform lie {apart:.3g} apart: the sform is used"


def _corners(shape: Sequence[int]) -> Array:
    """(4, 8) homogeneous indices of the corners of an array."""
    ends = np.meshgrid(*((0, side - 1) for side in shape), (1,))
    return np.array(ends).reshape(4, -1)


def _one_volume(path: Path, values: Array, channel: int | None) -> Array:
    """(x, y, z) of a file that may have a fourth axis of modalities, or axes of length 1."""
    if channel is not None:
        if values.ndim != 4 or channel >= values.shape[3]:
            told = f"{path} is {values.ndim}-D, shape {values.shape}; its dataset.json places a"
            raise UserError(f"{told} modality at {channel} of a fourth axis")
        return values[..., channel]
    if values.size > np.prod(values.shape[:3]):
        raise UserError(f"{path} is {values.ndim}-D, shape {values.shape}; expected one modality")
    return values.reshape(values.shape[:3], order="A")

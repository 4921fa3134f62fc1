"""Scans to predict: found by the readers of training, and their masks written back in kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.names import DATASET, UNNAMED, nifti_stem, read_dataset
from seglab.data.sources.base import SliceFiles, Source, check_image, walk
from seglab.data.sources.brats_h5 import SPACING_MM, BratsH5
from seglab.data.sources.brats_nifti import BratsNifti, is_gzipped, read_header
from seglab.data.sources.lgg_tif import LggTif
from seglab.data.volume import Patient, Volume

Mask = NDArray[np.bool_] | NDArray[np.uint8]

KINDS: tuple[type[Source], ...] = (BratsH5, BratsNifti, LggTif)
OTHER_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".npy", ".npz", ".dcm", ".mha", ".nrrd")
"""Suffixes of images that no reader takes."""
SUFFIXES = tuple(suffix for kind in KINDS for suffix in kind.suffixes)


@dataclass(frozen=True)
class Scan:
    """The files of one patient that a model reads; nothing has been read."""

    name: str
    patient: Patient
    source: Source
    modalities: tuple[str, ...]
    window: str | None = None  # further modality, which places the window and may be missing

    @property
    def names(self) -> tuple[str, ...]:
        """What the patient is called: by the files, and by the set that their names are of."""
        name, source = self.patient.patient_id, self.source
        if isinstance(source, SliceFiles) and source.pattern.fullmatch(self.path.name):
            return name, source.patient_id(name)
        return (name,)

    @property
    def _read(self) -> list[Path]:
        wanted = (self.patient.images.get(name, ()) for name in (*self.modalities, UNNAMED))
        return [path for paths in wanted for path in paths]

    @property
    def path(self) -> Path:
        """What to call it: the first file that is read, or the first that there is."""
        return (*self._read, *self.patient.files)[0]

    @property
    def seen(self) -> tuple[Path, ...]:
        """Further files of the patient, which are not read: other modalities, a segmentation."""
        read = set(self._read)
        return tuple(path for path in self.patient.files if path not in read)

    def read(self) -> Volume:
        """Read the modalities, and last that of the window if it is there.

        A segmentation beside them is judged and not handed on.
        Raises UserError where one is missing, unreadable, not what its suffix says, or no image.
        """
        wanted, window = self.modalities, self.window
        if window is None or window in wanted or window not in self.patient.images:
            volume = self._read_judging_mask(wanted)
        else:
            try:
                volume = self._read_judging_mask((*wanted, window))
            except UserError:  # a bad file that the model does not need
                volume = self._read_judging_mask(wanted)
        for modality, image in zip(wanted, volume.images, strict=False):
            check_image(self.patient.images.get(modality, (self.path,))[0], image)
        return volume

    def _read_judging_mask(self, modalities: Sequence[str]) -> Volume:
        has_mask = not set(self.patient.label_files).isdisjoint(self.seen)
        try:
            volume = self.source.read(self.patient, modalities, with_labels=has_mask)
            return replace(volume, labels=np.zeros_like(volume.labels))
        except UserError as error:
            if not has_mask:
                raise
            volume = self.source.read(self.patient, modalities, with_labels=False)
            told = f"its segmentation could not be used for training: {error}"
            return replace(volume, remarks=(*volume.remarks, told))

    def write(self, mask: Mask, volume: Volume, folder: Path, what: str = "pred") -> Path:
        """Write the mask (S, H, W) of ``read``'s volume into ``folder``; returns the file.

        Or any map of whole numbers from 0 to 255, which ``what`` tells in the file's name.
        """
        if isinstance(self.source, LggTif):
            suffix, image = ".tif", None
        elif isinstance(self.source, BratsH5):
            suffix, image = ".nii.gz", _stack_image(mask, volume)
        else:
            suffix = ".nii.gz" if is_gzipped(self.path) else ".nii"
            image = _like(self.path, mask)
        target = folder / f"{self.name}_{what}{suffix}"
        temporary = target.with_name(f".part-{target.name}")
        try:
            _save_pages(mask, temporary) if image is None else image.to_filename(temporary)
            temporary.replace(target)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return target


def find_scans(
    inputs: Sequence[Path], modalities: Sequence[str], window: str | None = None
) -> tuple[list[Scan], list[tuple[Path, str]]]:
    """Find the scans that files and folders hold, one a patient.

    Files are grouped by their names; one whose name tells no modality is a scan by itself.
    Returns them in natural order, and (path, reason) of inputs without one.
    """
    given: dict[Path, list[Path]] = {}
    failed: list[tuple[Path, str]] = []
    for path in inputs:
        try:
            given[path] = list(walk(path)) if path.is_dir() else [path]
        except UserError as error:
            failed.append((path, str(error)))
    paths = list(dict.fromkeys(path for found in given.values() for path in found))
    for table in [path for path in paths if path.name == DATASET]:
        try:
            read_dataset(table)
        except UserError as error:
            failed.append((table, str(error)))
            paths = [path for path in paths if table.parent not in path.parents]
    scans: list[Scan] = []
    for kind in KINDS:
        source = kind(Path(), paths=paths)
        try:
            for patient in source.list_patients(strict=False):
                name = _name(patient, modalities)
                scans.append(Scan(name, patient, source, tuple(modalities), window))
        except UserError as error:
            failed.append((inputs[0], str(error)))
    held = {path for scan in scans for paths in scan.patient.images.values() for path in paths}
    for path, found in given.items():
        if held.isdisjoint(found):
            kinds = ", ".join(SUFFIXES)
            what = f"holds no scan ({kinds}), or only a mask by its name"
            if not path.exists():
                what = "does not exist"
            elif path.is_dir() and not any(path.iterdir()):
                what = "is empty"
            failed.append((path, f"{path} {what}"))
    return _unique_names(scans), failed


def _name(patient: Patient, modalities: Sequence[str]) -> str:
    paths = patient.images.get(modalities[0], ())
    stem = nifti_stem(paths[0]) if len(paths) == len(modalities) == 1 else None
    return stem or patient.patient_id


def _unique_names(scans: Sequence[Scan]) -> list[Scan]:
    """Name scans after their folder too where two would be written to one file."""
    names = [scan.name for scan in scans]
    taken: dict[str, int] = {}
    out = []
    for scan in scans:
        twice = names.count(scan.name) > 1
        name = f"{scan.path.parent.name}_{scan.name}" if twice else scan.name
        taken[name] = taken.get(name, 0) + 1
        out.append(replace(scan, name=name if taken[name] == 1 else f"{name}-{taken[name]}"))
    return out


def _like(path: Path, mask: Mask) -> Any:
    from nibabel.loadsave import load

    image: Any = load(path)
    stored = read_header(path, image).from_lps(mask).astype(np.uint8)
    if stored.size == np.prod(image.shape):  # axes of length 1 behind the third stay
        stored = stored.reshape(image.shape)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    if header["cal_max"]:  # how bright the image was shown; a mask would be black
        header["cal_min"], header["cal_max"] = 0, max(stored.max(initial=0), 1)
    # Without an affine of its own the header's stays, with its codes.
    return type(image)(np.ascontiguousarray(stored), None, header)


def _stack_image(mask: Mask, volume: Volume) -> Any:
    from nibabel.nifti1 import Nifti1Image

    _, height, width = mask.shape
    data = np.zeros((height, width, volume.stack_size), np.uint8)
    data[:, :, volume.slice_indices] = np.moveaxis(mask, 0, -1)
    step, row, column = volume.spacing_mm or SPACING_MM
    affine = np.diag([-row, -column, step, 1.0])
    affine[1, 3] = column * (width - 1)
    return Nifti1Image(data, affine)


def _save_pages(mask: Mask, path: Path) -> None:
    from PIL import Image

    white = 255 if mask.dtype == bool else 1
    first, *others = [Image.fromarray(page * np.uint8(white)) for page in mask]
    first.save(path, save_all=True, append_images=others)

"""The Kaggle set of lower-grade gliomas: ``<case>_<n>.tif`` and ``<case>_<n>_mask.tif``.

Slices are upright, 256 × 256 × 3 uint8: before contrast, FLAIR, after contrast (Buda 2019). Where
a sequence was not acquired the set repeats FLAIR in its place. Spacing is not in the files.
Files of one channel, and stacks of pages, are read too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.core.tables import read_rows
from seglab.data.files import (
    check_file,
    check_same_shape,
    check_shape,
    check_stack,
    finite_image,
    same_name,
    unreadable,
)
from seglab.data.labels import LabelMap, read_labels
from seglab.data.names import natural_key
from seglab.data.persons import tcga_person
from seglab.data.sources.base import Source, image_files, labelled
from seglab.data.volume import Patient, Volume

if TYPE_CHECKING:
    from PIL import Image

GRADES = {"1": "G2", "2": "G3"}
"""Codes of ``neoplasm_histologic_grade``: 51 and 58 patients, as the paper counts II and III."""
MODES = ("RGB", "L", "I;16", "I", "F")
"""Kinds of pixels, as Pillow calls them."""
_FILE = re.compile(r"(.+?)_(\d{1,4})(_mask)?\.tiff?", re.IGNORECASE)
_MASK = re.compile(r"_(mask|seg|segm|pred)$", re.IGNORECASE)


class _Slice(NamedTuple):
    case: str
    number: int
    is_mask: bool

    @property
    def name(self) -> str:
        return f"{self.case}_{self.number}{'_mask' if self.is_mask else ''}.tif"


@SOURCES.register("lgg-tif")
class LggTif(Source):
    """Lower-grade gliomas (TCGA) as the Kaggle slice files <case>_<n>.tif and <case>_<n>_mask.tif.

    Files count from 1; ``Volume.slice_indices`` is that number minus 1.
    """

    name = "lgg-tif"
    modalities = ("t1", "flair", "t1ce")
    upright = True
    mirror_axis = 1
    suffixes = (".tif", ".tiff")

    def list_patients(self, *, strict: bool) -> list[Patient]:
        """List the cases that have at least one slice; see ``Source``."""
        cases = self._cases(strict)
        found = [self._patient(files) for files in cases if not all(one.is_mask for one in files)]
        if strict and not found:
            raise UserError(f"{self.root} holds no file named TCGA_<case>_<n>.tif")
        return sorted(found, key=lambda patient: natural_key(patient.patient_id))

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Read each slice once; see ``Source``."""
        image_files(patient, modalities)
        paths = patient.images[modalities[0]]
        pages = _read_stack(paths)
        images, remarks = self._images(paths[0], pages, modalities)
        if len(paths) == 1 < len(pages):
            numbers = np.arange(len(pages))
        else:
            numbers = np.array([_parse(path).number for path in paths])
        indices = (numbers - min(1, numbers[0])).astype(np.int32)
        volume = Volume(
            patient_id=patient.patient_id,
            images=images,
            modalities=tuple(modalities),
            labels=np.zeros(images.shape[1:], np.uint8),
            parts_known=False,
            slice_indices=indices,
            stack_size=int(indices[-1]) + 1,
            spacing_mm=None,
            affine=None,
            shared_scales=(True,) * len(images),
            grade=patient.grade,
            remarks=("spacing is not in the files: no volume in millilitres", *remarks),
        )
        return labelled(volume, paths[0], _labels(paths, pages)) if with_labels else volume

    def missing_files(self) -> list[str]:
        """Images and masks skipped by the numbering of a case, or without their other half."""
        missing: list[str] = []
        for files in self._cases(strict=True):
            case, last = next(iter(files)).case, max(slice_.number for slice_ in files)
            every = {_Slice(case, n, mask) for n in range(1, last + 1) for mask in (False, True)}
            missing += [slice_.name for slice_ in every - files.keys()]
        return sorted(missing, key=natural_key)

    def _cases(self, strict: bool) -> list[dict[_Slice, Path]]:
        """The slices of each case; if not ``strict``, of each folder by itself, and other files."""
        cases: dict[tuple[str, str], dict[_Slice, Path]] = {}
        first = self.root / "kaggle_3m"
        twice = strict and first.is_dir()  # Kaggle's archive holds the set in two folders
        for path in self._paths:
            if path.suffix.lower() not in self.suffixes or (twice and first not in path.parents):
                continue
            slice_, where = _parse(path), "" if strict else str(path.parent)
            if slice_.number < 0 or (not strict and _has_pages(path)):
                slice_, where = slice_._replace(case=path.stem), str(path)
                if strict:
                    continue
            files = cases.setdefault((where, slice_.case), {})
            if slice_ in files:
                raise same_name(files[slice_], path, slice_.name)
            files[slice_] = path
        return list(cases.values())

    def _patient(self, files: dict[_Slice, Path]) -> Patient:
        images = tuple(files[slice_] for slice_ in sorted(files) if not slice_.is_mask)
        masks = tuple(files[slice_] for slice_ in sorted(files) if slice_.is_mask)
        case = next(iter(files)).case
        grade = self._grades.get(tcga_person(case) or case)
        return Patient(case, dict.fromkeys(self.modalities, images), masks, grade)

    @cached_property
    def _grades(self) -> dict[str, str]:
        found = [path for path in self._paths if path.name == "data.csv"]
        return _read_grades(found[0]) if found else {}

    def _images(
        self, path: Path, pages: NDArray[Any], modalities: Sequence[str]
    ) -> tuple[NDArray[np.float32], list[str]]:
        """(M, S, H, W) of pages (S, H, W, 3), or (S, H, W) of one channel; and what to tell."""
        if pages.ndim == 3:
            if len(modalities) > 1:
                raise UserError(f"{path} has 1 channel; {', '.join(modalities)} are in 3")
            told = f"{path.name} has one channel: taken for {modalities[0]}"
            return finite_image(path, pages[None]), [told]
        places = [self.modalities.index(modality) for modality in modalities]
        flair = self.modalities.index("flair")
        repeated = [
            f"{self.modalities[place]} repeats flair: it was not acquired"
            for place in places
            if place != flair and np.array_equal(pages[..., place], pages[..., flair])
        ]
        return finite_image(path, np.moveaxis(pages[..., places], -1, 0)), repeated


def _parse(path: Path) -> _Slice:
    """What a name says; the number is -1 where it says none."""
    match = _FILE.fullmatch(path.name)
    if match is None:
        return _Slice(path.stem, -1, bool(_MASK.search(path.stem)))
    return _Slice(match[1], int(match[2]), bool(match[3]))


@contextmanager
def reading_tiff(path: Path) -> Iterator[Image.Image]:
    """Open ``path``, and turn whatever Pillow raises inside the block into one line.

    Raises:
        UserError: absent, damaged, not TIFF, or larger than is read.
    """
    from PIL import Image

    check_file(path)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["TIFF"]) as image:
            check_shape(path, (getattr(image, "n_frames", 1), image.height, image.width))
            yield image
    except UserError:
        raise
    except Exception as error:  # Pillow names no common class for damaged files
        raise unreadable(path, "TIFF", error) from error


def _has_pages(path: Path) -> bool:
    """Whether one file is a stack by itself; False for one that cannot be read."""
    try:
        with reading_tiff(path) as file:
            return int(getattr(file, "n_frames", 1)) > 1
    except UserError:  # told when the scan is read
        return False


def _read_stack(paths: Sequence[Path]) -> NDArray[Any]:
    """The pages of all files, which must be alike: (S, H, W), or (S, H, W, 3) of three channels."""
    pages: list[NDArray[Any]] = []
    for path in paths:
        for page in _read_pages(path):
            check_stack(path, page.shape, pages[0].shape if pages else page.shape)
            pages.append(page)
    check_shape(paths[0], (len(pages), *pages[0].shape[:2]))
    return np.stack(pages)


def _read_pages(path: Path) -> Iterator[NDArray[Any]]:
    from PIL import ImageSequence

    with reading_tiff(path) as file:
        for page in ImageSequence.Iterator(file):
            check_shape(path, (page.height, page.width))
            if page.mode not in MODES:
                raise UserError(f"{path} has pixels of kind {page.mode}; one of {', '.join(MODES)}")
            rows = max((bottom for _, (_, _, _, bottom), *_ in page.tile), default=0)
            if rows < page.height:  # which Pillow leaves black
                raise ValueError(f"it holds {rows} of {page.height} rows")
            yield np.array(page)


def _labels(paths: Sequence[Path], pages: NDArray[Any]) -> LabelMap:
    masks = []
    for path in paths:
        mask_path = path.with_name(f"{path.stem}_mask{path.suffix}")
        stack = _read_stack([mask_path])
        if stack.ndim > 3:
            raise UserError(f"{mask_path} has {stack.shape[-1]} channel(s); expected 1")
        check_same_shape(mask_path, pages.shape[1:3], stack.shape[1:])
        masks.append(read_labels(mask_path, stack, chosen="binary").labels)
    return LabelMap(np.concatenate(masks), "binary", parts_known=False)


def _read_grades(path: Path) -> dict[str, str]:
    """Person (``TCGA-CS-4941``) → ``G2`` or ``G3``, from the set's ``data.csv``."""
    coded = ((row.get("Patient"), row.get("neoplasm_histologic_grade")) for row in read_rows(path))
    return {
        tcga_person(patient) or patient: GRADES[code]
        for patient, code in coded
        if patient and code in GRADES
    }

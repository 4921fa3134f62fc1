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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.files import check_file, check_same_shape, check_shape, finite_image, unreadable
from seglab.data.labels import LabelMap, read_labels
from seglab.data.names import natural_key
from seglab.data.persons import tcga_person
from seglab.data.sources.base import SliceFiles, image_files, labelled
from seglab.data.volume import Patient, Volume

if TYPE_CHECKING:
    from PIL import Image

GRADES = {"1": "G2", "2": "G3"}
"""Codes of ``neoplasm_histologic_grade``: 51 and 58 patients, as the paper counts II and III."""
MODES = ("RGB", "L", "I;16", "I", "F")
"""Kinds of pixels, as Pillow calls them."""
NO_SPACING = "spacing is not in the files: no volume in millilitres"
_NO_IMAGE = re.compile(r".*_(mask|seg|segm|pred)", re.IGNORECASE)


@SOURCES.register("lgg-tif")
class LggTif(SliceFiles):
    """Lower-grade gliomas (TCGA) as the Kaggle slice files <case>_<n>.tif and <case>_<n>_mask.tif.

    Files count from 1; ``Volume.slice_indices`` is that number minus 1.
    """

    name = "lgg-tif"
    modalities = ("t1", "flair", "t1ce")
    upright = True
    mirror_axis = 1
    suffixes = (".tif", ".tiff")
    pattern = re.compile(r"(.+)_(\d{1,4})\.tiff?", re.IGNORECASE)
    example = "TCGA_<case>_<n>.tif"

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Read each slice once; see ``Source``."""
        image_files(patient, modalities)
        paths = patient.images[modalities[0]]
        pages = _read_stack(paths)
        images, told = self._images(paths[0], pages, modalities)
        numbers = [self.number(path) or 0 for path in paths]
        indices = np.array(numbers if len(paths) == len(pages) else range(len(pages)), np.int32)
        indices -= min(1, indices[0])
        volume = Volume(
            patient_id=patient.patient_id,
            images=images,
            modalities=tuple(modalities),
            labels=np.zeros(images.shape[1:], np.uint8),
            slice_indices=indices,
            stack_size=int(indices[-1]) + 1,
            shared_scales=(True,) * len(images),
            grade=patient.grade,
            remarks=(NO_SPACING, *told),
        )
        return labelled(volume, paths[0], _labels(paths, pages)) if with_labels else volume

    def missing_files(self) -> list[str]:
        """Images and masks skipped by the numbering of a case, or without their other half."""
        expected = set()
        for patient in self.list_patients(strict=True):
            last = self.number(patient.images["flair"][-1]) or 0
            names = [f"{patient.patient_id}_{number}" for number in range(1, last + 1)]
            expected |= {f"{name}{kind}.tif" for name in names for kind in ("", "_mask")}
        return sorted(expected - {path.name for path in self._paths}, key=natural_key)

    def image_paths(self, strict: bool) -> Iterator[Path]:
        """All but masks; of Kaggle's archive, which holds the set in two folders, the first."""
        first = self.root / "kaggle_3m"
        twice = strict and first.is_dir()
        for path in super().image_paths(strict):
            if not _NO_IMAGE.fullmatch(path.stem) and not (twice and first not in path.parents):
                yield path

    def stands_alone(self, path: Path) -> bool:
        """Whether it has several pages; False of a file that cannot be read."""
        try:
            with reading_tiff(path) as file:
                return int(getattr(file, "n_frames", 1)) > 1
        except UserError:  # told when the scan is read
            return False

    def patient(self, name: str, paths: tuple[Path, ...]) -> Patient:
        """With its grade, and the masks that there are."""
        masks = tuple(mask for mask in map(_mask_of, paths) if mask in self._every)
        grade = self._grades.get(tcga_person(name) or name)
        return replace(super().patient(name, paths), label_files=masks, grade=grade)

    @cached_property
    def _every(self) -> frozenset[Path]:
        return frozenset(self._paths)

    @cached_property
    def _grades(self) -> dict[str, str]:
        """Person (``TCGA-CS-4941``) → ``G2`` or ``G3``, from the set's ``data.csv``."""
        tables = [path for path in self._paths if path.name == "data.csv"]
        rows = [row for path in tables[:1] for row in read_rows(path)]
        coded = [(row.get("Patient", ""), row.get("neoplasm_histologic_grade")) for row in rows]
        return {tcga_person(name) or name: GRADES[code] for name, code in coded if code in GRADES}

    def _images(
        self, path: Path, pages: NDArray[Any], modalities: Sequence[str]
    ) -> tuple[NDArray[np.float32], list[str]]:
        """(M, S, H, W) of pages (S, H, W, 3), or (S, H, W) of one channel; and what to tell."""
        if pages.ndim == 3:
            if len(modalities) > 1:
                raise UserError(f"{path} has 1 channel; {', '.join(modalities)} are in 3")
            told = f"{path.name} has one channel: taken for {modalities[0]}"
            return finite_image(path, pages[None]), [told]
        channels = {name: pages[..., place] for place, name in enumerate(self.modalities)}
        repeated = [
            f"{name} repeats flair: it was not acquired"
            for name in modalities
            if name != "flair" and np.array_equal(channels[name], channels["flair"])
        ]
        return finite_image(path, np.stack([channels[name] for name in modalities])), repeated


@contextmanager
def reading_tiff(path: Path) -> Iterator[Image.Image]:
    """Open ``path``, and turn whatever Pillow raises inside the block into a UserError."""
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


def _read_stack(paths: Sequence[Path]) -> NDArray[Any]:
    """The pages of all files, which must be alike: (S, H, W), or (S, H, W, 3) of three channels."""
    pages: list[NDArray[Any]] = []
    for path in paths:
        for page in _read_pages(path):
            pages.append(page)
            check_same_shape(path, page.shape, pages[0].shape, "its volume")
    check_shape(paths[0], (len(pages), *pages[0].shape[:2]))
    return np.stack(pages)


def _read_pages(path: Path) -> Iterator[NDArray[Any]]:
    from PIL import ImageSequence

    page: Any
    with reading_tiff(path) as file:
        for page in ImageSequence.Iterator(file):
            check_shape(path, (page.height, page.width))
            if page.mode not in MODES:
                raise UserError(f"{path} has pixels of kind {page.mode}; one of {', '.join(MODES)}")
            rows = max((bottom for _, (_, _, _, bottom), *_ in page.tile), default=0)
            if rows < page.height:  # which Pillow leaves black
                raise ValueError(f"it holds {rows} of {page.height} rows")
            yield np.array(page)


def _mask_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_mask{path.suffix}")


def _labels(paths: Sequence[Path], pages: NDArray[Any]) -> LabelMap:
    masks = []
    for path in map(_mask_of, paths):
        stack = _read_stack([path])
        check_same_shape(path, stack.shape[1:], pages.shape[1:3], "its image")
        masks.append(read_labels(path, stack, chosen="binary").labels)
    return LabelMap(np.concatenate(masks), "binary", parts_known=False)

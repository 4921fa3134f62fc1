"""The Kaggle set of lower-grade gliomas: ``<case>_<n>.tif`` and ``<case>_<n>_mask.tif``.

Slices are upright, 256 × 256 × 3 uint8: before contrast, FLAIR (also in place of a sequence that
was not acquired), after contrast (Buda 2019). One channel, and many pages, are read too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.labels import LabelMap, read_labels
from seglab.data.names import tcga_person
from seglab.data.sources import base
from seglab.data.volume import Patient, Volume

GRADES = {"1": "G2", "2": "G3"}
"""Codes of ``neoplasm_histologic_grade``: 51 and 58 patients, as the paper counts II and III."""
MODES = ("RGB", "L", "I;16", "I", "F")  # kinds of pixels, as Pillow calls them
NO_SPACING = "spacing is not in the files: no volume in millilitres"
_NO_IMAGE = re.compile(r".*_(mask|seg|segm|pred)", re.IGNORECASE)


@SOURCES.register("lgg-tif")
class LggTif(base.SliceFiles):
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
    first_number = 1
    name_ends = ("", "_mask")

    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Read each slice once; see ``Source``."""
        base.image_files(patient, modalities)
        paths = patient.images[modalities[0]]
        pages, told = _read_stack(paths), [NO_SPACING]
        if pages.ndim == 4:
            channels = dict(zip(self.modalities, np.moveaxis(pages, -1, 0), strict=True))
        elif len(modalities) == 1:
            channels = {modalities[0]: pages}
            told.append(f"{paths[0].name} has one channel: taken for {modalities[0]}")
        else:
            raise UserError(f"{paths[0]} has 1 channel; {', '.join(modalities)} are in 3")
        for name in _not_acquired(pages) & {*modalities}:
            raise UserError(f"{paths[0]} has no {name}: flair is in its place")
        indices = self.numbers(paths)
        if len(paths) != len(pages):
            indices = np.arange(len(pages), dtype=np.int32)
        indices -= min(1, indices[0])
        return base.as_volume(
            patient,
            modalities,
            [base.finite_image(paths[0], channels[name]) for name in modalities],
            _labels(paths, pages) if with_labels else None,
            told,
            slice_indices=indices,
            stack_size=int(indices[-1]) + 1,
        )

    def image_paths(self, strict: bool) -> Iterator[Path]:
        """All but masks; of Kaggle's archive, which holds the set in two folders, the first."""
        first = self.root / "kaggle_3m"
        twice = strict and first.is_dir()
        for path in super().image_paths(strict):
            if not _NO_IMAGE.fullmatch(path.stem) and not (twice and first not in path.parents):
                yield path

    def holds_stack(self, path: Path) -> bool:
        """Whether it has several pages; False of a file that cannot be read."""
        with suppress(UserError), _opened(path) as file:  # told when the scan is read
            return int(getattr(file, "n_frames", 1)) > 1
        return False

    def patient(self, name: str, paths: tuple[Path, ...]) -> Patient:
        """With its grade, the masks that there are, and what its middle slice shows."""
        patient = super().patient(name, paths)
        with suppress(UserError):  # told when the patient is read
            for modality in _not_acquired(_read_stack([paths[len(paths) // 2]])):
                del patient.images[modality]
        patient.label_files = tuple(mask for mask in map(_mask_of, paths) if mask in self._every)
        patient.grade = self._grades.get(tcga_person(name) or name)
        return patient

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


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    muted = warnings.catch_warnings(action="ignore")
    with base.reading(path, "TIFF"), muted, Image.open(path, formats=["TIFF"]) as file:
        yield file


def _read_stack(paths: Sequence[Path]) -> NDArray[Any]:
    """The pages of all files, which must be alike: (S, H, W), or (S, H, W, 3) of three channels."""
    pages: list[NDArray[Any]] = []
    page: Any
    for path in paths:
        with _opened(path) as file:
            for page in ImageSequence.Iterator(file):
                if page.mode not in MODES:
                    kinds = ", ".join(MODES)
                    raise UserError(f"{path} has pixels of kind {page.mode}; one of {kinds}")
                rows = max((bottom for _, (_, _, _, bottom), *_ in page.tile), default=0)
                if rows < page.height:  # which Pillow leaves black
                    raise ValueError(f"it holds {rows} of {page.height} rows")
                pages.append(np.array(page))
                base.check_same_shape(path, pages[-1].shape, pages[0].shape, "its volume")
    return np.stack(pages)


def _not_acquired(pages: NDArray[Any]) -> set[str]:
    """Modalities in whose place FLAIR is in (S, H, W, 3); none where that is constant."""
    if pages.ndim != 4 or pages[..., 1].min() == pages[..., 1].max():
        return set()
    found = zip(LggTif.modalities, np.moveaxis(pages, -1, 0), strict=True)
    return {name for name, one in found if np.array_equal(one, pages[..., 1])} - {"flair"}


def _mask_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_mask{path.suffix}")


def _labels(paths: Sequence[Path], pages: NDArray[Any]) -> LabelMap:
    masks = []
    for path in map(_mask_of, paths):
        stack = _read_stack([path])
        base.check_same_shape(path, stack.shape[1:], pages.shape[1:3], "its image")
        masks.append(read_labels(path, stack, chosen="binary").labels)
    return LabelMap(paths[0], np.concatenate(masks), "binary", parts_known=False)

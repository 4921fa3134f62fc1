"""What every data source gives: its patients, each patient's volume; and what all refuse."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import Data
from seglab.core.errors import UserError, first_line, nearest
from seglab.core.registry import SOURCES
from seglab.data.labels import CONVENTIONS, LabelMap, check_on_image
from seglab.data.names import PHANTOM, UNNAMED, NameMapping, natural_key, same_name
from seglab.data.volume import Patient, Volume

FEWEST_LEVELS = 10  # an image of so few distinct values, or fewer, is a mask
SAMPLES = 200_000  # of its pixels, which tell that in almost all cases
LEAST_MM, MOST_MM = 0.1, 20.0  # between two voxels of a scan of a head
Spacing = tuple[float, float, float]  # millimetres from voxel to voxel: (slice, row, column)


class Source(ABC):
    """A folder of one data set's files; for training, checks and prediction alike.

    ``root`` holds the files, at any depth of the set's known layouts; ``paths`` None takes all of
    them. ``labels`` is a convention, or ``auto``; an unknown one is a UserError. ``persons`` is
    the CSV of ``data.persons``.
    """

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]  # those that the format can hold
    upright: ClassVar[bool]  # whether rows run from top to bottom; otherwise show ``slice.T``
    mirror_axis: ClassVar[int]  # axis of a slice (0 rows, 1 columns) along which left and right lie
    suffixes: ClassVar[tuple[str, ...]]  # of the files, in lower case
    conventions: ClassVar[tuple[str, ...]] = tuple(CONVENTIONS)  # of labels that it can hold

    def __init__(
        self,
        root: Path,
        labels: str = "auto",
        persons: Path | None = None,
        paths: Sequence[Path] | None = None,
    ) -> None:
        if labels not in ("auto", *self.conventions):
            known = ", ".join(self.conventions)
            raise UserError(f"data.labels: {labels} is none of {self.name}'s: auto, {known}")
        self.root, self.labels, self.persons = Path(root), labels, persons
        if paths is not None:
            self._paths = tuple(paths)

    def __getstate__(self) -> dict[str, Any]:
        # The cached listing (57,195 paths for BraTS) must not travel with every task.
        return {key: vars(self)[key] for key in ("root", "labels", "persons")}

    def patients(self) -> list[Patient]:
        """List the patients in natural order of their names, without reading pixels.

        Raises UserError where the root is missing, holds no file of this source, or two files of
        one slice or volume.
        """
        found, names = self.list_patients(strict=True), self.names
        if names.listed and not any(patient.patient_id in names.listed for patient in found):
            raise UserError(f"{self.persons} (data.persons) names no patient of {self.root}")
        for patient in found:
            patient.grade = patient.grade or names.grades.get(patient.patient_id)
        return found

    @abstractmethod
    def list_patients(self, *, strict: bool) -> list[Patient]:
        """List the patients as :meth:`patients`; not ``strict``: by folder, and of any name."""

    @abstractmethod
    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Read one patient.

        Raises UserError where a modality is missing, or a file absent, unreadable or not what
        this source expects; it names patient and modality, or the file.
        """

    def missing_files(self) -> list[str]:
        """Names of files that a listing or a numbering announces but that are absent."""
        return []

    def no_file(self, example: str) -> UserError:
        """Build the error for a root without a file of this source: which source reads what it has.

        Judged by the suffixes of the names.
        """
        names = [path.name.lower() for path in self._paths]
        told = f"{self.root} holds no file named {example}"
        for other in SOURCES:
            for suffix in getattr(other.build, "suffixes", ()):
                if suffix not in self.suffixes and any(one.endswith(suffix) for one in names):
                    add = f"data.source={other.name} (or --source {other.name})"
                    return UserError(f"{told}; it holds {suffix} files: add {add}")
        return UserError(told)

    @cached_property
    def names(self) -> NameMapping:
        """Other names, persons and grades of the patients."""
        return NameMapping.find(self._paths, self.persons)

    @cached_property
    def phantom(self) -> Mapping[str, Any]:
        """The record above the files of a synthetic set; empty where there is none."""
        first = next((p for p in self._paths if p.name.lower().endswith(self.suffixes)), self.root)
        for folder in list(first.absolute().parents)[:4]:
            with suppress(OSError, ValueError, AttributeError):
                record: dict[str, Any] = json.loads((folder / PHANTOM).read_text(encoding="utf-8"))
                if record.get("synthetic") is True:
                    return record
        return {}

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(walk(self.root))


class SliceFiles(Source):
    """A source whose patients are stacks of files, which hold all its modalities."""

    pattern: ClassVar[re.Pattern[str]]  # of the names: the groups are case and number
    example: ClassVar[str]  # such a name, for errors
    first_number: ClassVar[int]
    name_ends: ClassVar[tuple[str, ...]]  # of the files of a slice, behind its number
    conventions = ("binary",)

    def list_patients(self, *, strict: bool) -> list[Patient]:
        """Group the files by case, in the order of their numbers; see ``Source``."""
        stacks: dict[tuple[str, str], dict[int, Path]] = {}
        for path in self.image_paths(strict):
            match = self.pattern.fullmatch(path.name)
            if match and (strict or not self.holds_stack(path)):
                case = self.patient_id(match[1]) if strict else match[1]
                stack = stacks.setdefault((case, "" if strict else str(path.parent)), {})
                other = stack.setdefault(int(match[2]), path)
                if other is not path:
                    raise same_name(other, path, f"slice {match[2]} of {case}")
            elif not strict:
                stacks[path.stem, str(path)] = {0: path}
        if strict and not stacks:
            raise self.no_file(self.example)
        found = sorted(stacks.items(), key=lambda item: (natural_key(item[0][0]), item[0][1]))
        return [
            self.patient(case, tuple(path for _, path in sorted(stack.items())))
            for (case, _), stack in found
        ]

    def image_paths(self, strict: bool) -> Iterator[Path]:
        """The files that may be slices."""
        yield from (path for path in self._paths if path.suffix.lower() in self.suffixes)

    def holds_stack(self, path: Path) -> bool:
        """Whether one file holds several slices."""
        return False

    def patient_id(self, case: str) -> str:
        """What the patient is called in the set."""
        return case

    def patient(self, name: str, paths: tuple[Path, ...]) -> Patient:
        """The patient whose slices these files are."""
        return Patient(name, dict.fromkeys(self.modalities, paths), paths)

    def numbers(self, paths: Sequence[Path]) -> NDArray[np.int32]:
        """The numbers in the names of slices; 0 where a name has none."""
        found = (self.pattern.fullmatch(path.name) for path in paths)
        return np.array([int(match[2]) if match else 0 for match in found], np.int32)

    def missing_files(self) -> list[str]:
        """Files that a table of the set lists, or without one those that a numbering skips."""
        expected = set(self.listed_files())
        for patient in [] if expected else self.list_patients(strict=True):
            first, last = (next(iter(patient.images.values()))[place] for place in (0, -1))
            case, _, stop = last.stem.rpartition("_")
            start = first.stem.rpartition("_")[2]
            digits = len(start) if start.startswith("0") else 0
            for n in range(self.first_number, int(stop) + 1):
                expected |= {f"{case}_{n:0{digits}}{end}{last.suffix}" for end in self.name_ends}
        return sorted(expected - {path.name for path in self._paths}, key=natural_key)

    def listed_files(self) -> Iterator[str]:
        """Names of slices in a table of the set."""
        yield from ()


def image_files(patient: Patient, modalities: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """First file of each modality, and what to tell of them; a UserError where one is lacking."""
    if UNNAMED in patient.images and len(modalities) == 1:
        told = f"its name tells no modality: taken for {modalities[0]}"
        return [patient.images[UNNAMED][0]], (told,)
    lacking = [modality for modality in modalities if modality not in patient.images]
    if lacking:
        has = ", ".join(filter(None, patient.images)) or "none whose name tells it"
        where = f"in {patient.files[0].parent} this patient has: {has}"
        raise UserError(f"{patient.patient_id} has no {' and no '.join(lacking)}; {where}")
    return [patient.images[modality][0] for modality in modalities], ()


def as_volume(
    patient: Patient,
    modalities: Sequence[str],
    images: Sequence[NDArray[np.float32]],
    labels: LabelMap | None,
    remarks: Sequence[str] = (),
    **grid: Any,
) -> Volume:
    """Put M images (S, H, W), labels that lie on the first, and the other fields together.

    Raises UserError for an image that is constant or a mask, and for labels that do not fit.
    """
    for modality, image in zip(modalities, images, strict=True):
        if len(image) > 1:  # a slice of a stack may be empty
            check_image(patient.images.get(modality, patient.files)[0], image)
    volume = Volume(
        patient_id=patient.patient_id,
        images=images[0][None] if len(images) == 1 else np.stack(images),
        modalities=tuple(modalities),
        labels=np.zeros(images[0].shape, np.uint8) if labels is None else labels.labels,
        grade=patient.grade,
        parts_known=labels is not None and labels.parts_known,
        convention="" if labels is None else labels.convention,
        remarks=(*remarks, *(labels.remarks if labels else ())),
        **({"shared_scales": (True,) * len(images)} | grid),
    )
    if labels is not None:
        check_on_image(labels, volume.images[0], shared=volume.shared_scales[0])
    return volume


def open_source(
    name: str, root: Path, *, labels: str = "auto", persons: Path | None = None
) -> Source:
    """Build the source registered as ``name``; a UserError where there is none."""
    source: Source = SOURCES.build(name, {}, root, labels, persons)
    return source


def open_data_source(data: Data) -> Source:
    """Build the source that a ``data`` block names; a UserError for a modality it never has."""
    source = open_source(data.source, data.root, labels=data.labels, persons=data.persons)
    foreign = [name for name in (*data.modalities, *data.require) if name not in source.modalities]
    if foreign:
        held = ", ".join(source.modalities)
        raise UserError(f"data.modalities: {source.name} has no {foreign[0]}; it has {held}")
    return source


def walk(root: Path) -> Iterator[Path]:
    """Yield the files at and below ``root`` in a fixed order, hidden ones left out.

    Links to folders are followed, each folder once: large sets often lie on another disk.
    Raises UserError where the root is no folder, or a folder cannot be listed.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        where = "" if root.is_absolute() else f" (it was looked for in {Path.cwd()})"
        beside = [one.name for one in root.parent.glob("*") if one.is_dir()]
        near = nearest(root.name, beside)
        fetch = "python -m seglab data download --out DIR fetches one"
        more = f"; data.root=DIR (or --root DIR) names your folder, {fetch}" * (not near)
        raise UserError(f"data root {root} {what}{where}{near}{more}")
    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=_cannot_list, followlinks=True):
        is_new = (real := os.path.realpath(folder)) not in seen
        seen.add(real)
        below[:] = sorted(name for name in below if is_new and not name.startswith("."))
        shown = sorted(name for name in names if is_new and not name.startswith("."))
        yield from (Path(folder, name) for name in shown)


def _cannot_list(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from error


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises as it reads ``path`` as ``kind`` into a UserError."""
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries name no common class for damaged files
        told = f"{path} cannot be read as {kind} (truncated?): {first_line(error)}"
        raise UserError(told) from error


def check_image(path: Path, image: NDArray[np.float32]) -> None:
    """Raise a UserError where every value is the same, or so few differ that it is a mask."""
    values = np.unique(image.reshape(-1)[:: max(1, image.size // SAMPLES)])
    if len(values) <= FEWEST_LEVELS:
        values = np.unique(image)
    if len(values) == 1:
        raise UserError(f"{path} is empty: every value is {values[0]:g}")
    if len(values) <= FEWEST_LEVELS:
        some = ", ".join(f"{value:g}" for value in values)
        raise UserError(f"{path} holds only the values {some}: a mask, not an image")


def check_same_shape(path: Path, shape: tuple[int, ...], wanted: tuple[int, ...], of: str) -> None:
    """Raise a UserError for what does not have the shape of its image or its volume (``of``)."""
    if shape != wanted:
        raise UserError(f"{path} has the shape {shape}; {of} has {wanted}")


def finite_image(path: Path, image: NDArray[Any]) -> NDArray[np.float32]:
    """Convert to float32; raises a UserError where a value is NaN, infinite or beyond that."""
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(image, dtype=np.float32)
    bad = converted.size - np.count_nonzero(np.isfinite(converted))
    if bad:
        raise UserError(f"{path} holds {bad} image values that are NaN or infinite")
    return converted


def plausible_spacing(
    path: Path, values: Sequence[float]
) -> tuple[Spacing | None, tuple[str, ...]]:
    """Return (slice, row, column) in mm, or None and why it is not believed."""
    if len(values) == 3 and all(LEAST_MM <= value <= MOST_MM for value in values):
        return (values[0], values[1], values[2]), ()
    words = " × ".join(f"{value:g}" for value in values) or "nothing"
    limits = f"{LEAST_MM:g} to {MOST_MM:g} mm are plausible"
    return None, (f"{path.name} states a spacing of {words} mm; {limits}: volume unknown",)

"""What every data source gives: its patients, and each patient's volume."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from seglab.core.config import Data
from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.files import same_name, walk
from seglab.data.labels import CONVENTIONS, LabelMap, check_on_image
from seglab.data.names import UNNAMED, natural_key
from seglab.data.persons import NameMapping
from seglab.data.volume import Patient, Volume


class Source(ABC):
    """A folder of one data set's files; for training, checks and prediction alike.

    Instances hold no open file and can be pickled: workers read in parallel, and
    ``read`` needs nothing but the patient.

    Args:
        root: folder that holds the files, at any depth of the set's known layouts.
        labels: convention of the labels, or ``auto``; see :mod:`seglab.data.labels`.
        persons: CSV of ``data.persons``.
        paths: the files; None takes all at and below ``root``.

    Raises:
        UserError: unknown convention.
    """

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]
    """Those that the format can hold."""
    upright: ClassVar[bool]
    """Whether rows run from top to bottom; otherwise show ``slice.T``."""
    mirror_axis: ClassVar[int]
    """Axis of a slice (0 rows, 1 columns) along which left and right lie."""
    suffixes: ClassVar[tuple[str, ...]]
    """Of the files, in lower case."""

    def __init__(
        self,
        root: Path,
        labels: str = "auto",
        persons: Path | None = None,
        paths: Sequence[Path] | None = None,
    ) -> None:
        if labels not in ("auto", *CONVENTIONS):
            raise UserError(f"data.labels: {labels} is none of auto, {', '.join(CONVENTIONS)}")
        self.root, self.labels, self.persons = Path(root), labels, persons
        if paths is not None:
            self._paths = tuple(paths)

    def __getstate__(self) -> dict[str, Any]:
        # The cached listing (57,195 paths for BraTS) must not travel with every task.
        kept = ("root", "labels", "persons")
        return {key: value for key, value in vars(self).items() if key in kept}

    def patients(self) -> list[Patient]:
        """List the patients in natural order of their names, without reading pixels.

        Raises:
            UserError: the root is missing, holds no file of this source, or holds
                two files that claim to be the same slice or volume.
        """
        found = self.list_patients(strict=True)
        names = {patient.patient_id for patient in found}
        if self.names.listed and names.isdisjoint(self.names.listed):
            raise UserError(f"{self.persons} (data.persons) names no patient of {self.root}")
        return [
            replace(patient, grade=patient.grade or self.names.grade(patient.patient_id))
            for patient in found
        ]

    @abstractmethod
    def list_patients(self, *, strict: bool) -> list[Patient]:
        """List the patients; if not ``strict``, each folder by itself, and any name.

        Raises:
            UserError: if ``strict``, as :meth:`patients`.
        """

    @abstractmethod
    def read(
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        """Read one patient.

        Raises:
            UserError: a modality is missing, or a file is absent, unreadable or not what this
                source expects; the message names patient and modality, or the file.
        """

    @abstractmethod
    def missing_files(self) -> list[str]:
        """Names of files that a listing or a numbering announces but that are absent."""

    @cached_property
    def names(self) -> NameMapping:
        """Other names, persons and grades of the patients."""
        return NameMapping.find(self._paths, self.persons)

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(walk(self.root))


class SliceFiles(Source):
    """A source whose patients are stacks of files."""

    pattern: ClassVar[re.Pattern[str]]
    """Of the names: the groups are case and number."""
    example: ClassVar[str]
    """Such a name, for errors."""

    def list_patients(self, *, strict: bool) -> list[Patient]:
        """Group the files by case, in the order of their numbers; see ``Source``."""
        stacks: dict[tuple[str, str], dict[int, Path]] = {}
        for path in self.image_paths(strict):
            match = self.pattern.fullmatch(path.name)
            if match is None or (not strict and self.stands_alone(path)):
                if not strict:
                    stacks[path.stem, str(path)] = {0: path}
                continue
            case = self.patient_id(match[1]) if strict else match[1]
            stack = stacks.setdefault((case, "" if strict else str(path.parent)), {})
            other = stack.setdefault(int(match[2]), path)
            if other is not path:
                raise same_name(other, path, f"slice {match[2]} of {case}")
        if strict and not stacks:
            raise UserError(f"{self.root} holds no file named {self.example}")
        found = sorted(stacks.items(), key=lambda item: (natural_key(item[0][0]), item[0][1]))
        return [
            self.patient(case, tuple(path for _, path in sorted(stack.items())))
            for (case, _), stack in found
        ]

    def image_paths(self, strict: bool) -> Iterator[Path]:
        """The files that may be slices."""
        yield from (path for path in self._paths if path.suffix.lower() in self.suffixes)

    def stands_alone(self, path: Path) -> bool:
        """Whether one file is a stack by itself."""
        return False

    def patient_id(self, case: str) -> str:
        """What the patient is called in the set."""
        return case

    def patient(self, name: str, paths: tuple[Path, ...]) -> Patient:
        """The patient whose slices these files are."""
        return Patient(name, dict.fromkeys(self.modalities, paths), paths)

    def number(self, path: Path) -> int | None:
        """The number in a name; None where it has none."""
        match = self.pattern.fullmatch(path.name)
        return int(match[2]) if match else None


def image_files(patient: Patient, modalities: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """First file of each modality, and what to tell of them.

    A file whose name tells no modality is taken for the one that is wanted.

    Raises:
        UserError: the patient lacks one; names those that there are.
    """
    if UNNAMED in patient.images and len(modalities) == 1:
        told = f"its name tells no modality: taken for {modalities[0]}"
        return [patient.images[UNNAMED][0]], (told,)
    lacking = [modality for modality in modalities if modality not in patient.images]
    if lacking:
        has = ", ".join(filter(None, patient.modalities)) or "none whose name tells it"
        where = patient.files[0].parent if patient.files else "its folder"
        raise UserError(
            f"{patient.patient_id} has no {' and no '.join(lacking)}; {where} has: {has}"
        )
    return [patient.images[modality][0] for modality in modalities], ()


def labelled(volume: Volume, path: Path, found: LabelMap) -> Volume:
    """Add the labels, once they are known to lie on the image.

    Raises:
        UserError: see :func:`seglab.data.labels.check_on_image`; names ``path``, of the labels.
    """
    check_on_image(path, volume.images[0], found.labels, shared=volume.shared_scales[0])
    return replace(
        volume,
        labels=found.labels,
        parts_known=found.parts_known,
        convention=found.convention,
        remarks=(*volume.remarks, *found.remarks),
    )


def open_source(
    name: str,
    root: Path,
    *,
    labels: str = "auto",
    persons: Path | None = None,
) -> Source:
    """Build the source registered as ``name``.

    Raises:
        UserError: unknown name or convention of labels.
    """
    source: Source = SOURCES.build(name, {}, root, labels, persons)
    return source


def open_data_source(data: Data) -> Source:
    """Build the source that a config's ``data`` block names.

    Raises:
        UserError: a modality that this source does not hold.
    """
    source = open_source(data.source, data.root, labels=data.labels, persons=data.persons)
    for modality in (*data.modalities, *data.require):
        if modality not in source.modalities:
            held = ", ".join(source.modalities)
            raise UserError(f"data.modalities: {source.name} has no {modality}; it has {held}")
    return source

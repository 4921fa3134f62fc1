"""What every data source gives: patients, and each patient's slices with one binary mask."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import CHANNELS, Data
from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.data.sources.files import walk
from seglab.data.sources.identity_map import NameMapping


@dataclass(frozen=True)
class Patient:
    """One patient as found by listing files; no pixel has been read."""

    patient_id: str
    files: tuple[Path, ...]
    """Every file the volume is read from; in slice order where a file is a slice."""
    grade: str | None
    """``HGG``/``LGG`` (BraTS), ``G2``/``G3`` (LGG set), or None where unknown."""
    stack_size: int | None = None
    """Slices of the full stack where it can be told without reading; else None."""


@dataclass(frozen=True)
class Volume:
    """The slices of one patient, on the source's own grid."""

    patient_id: str
    image: NDArray[np.float32]
    """(S, H, W), finite, in the source's own units (``brats-h5``: z-scored as stored)."""
    mask: NDArray[np.uint8]
    """(S, H, W) in {0, 1}: any label above 0."""
    slice_indices: NDArray[np.int32]
    """(S,) ascending positions in the full stack, from 0; gaps where files are absent."""
    stack_size: int
    """Slices of the full stack (155 for BraTS)."""
    spacing_mm: tuple[float, float, float] | None
    """(slice, row, column), or None where the files do not tell."""
    grade: str | None

    @property
    def contiguous(self) -> bool:
        """Whether the slices follow one another without a gap."""
        return bool(np.all(np.diff(self.slice_indices) == 1))


class Source(ABC):
    """A folder of one data set's files.

    Instances hold no open file and can be pickled: workers read in parallel, and
    ``read`` needs nothing but the patient.

    Args:
        root: folder that holds the files, at any depth of the set's known layouts.
        channel: which of ``channel_names`` is read as the image; None takes ``default_channel``.

    Raises:
        UserError: ``channel`` does not exist.
    """

    name: ClassVar[str]
    channel_names: ClassVar[tuple[str, ...]]
    default_channel: ClassVar[int]
    """The channel documented as FLAIR."""
    plane_names: ClassVar[tuple[str, ...]]
    """What each mask plane of ``read_channels`` marks."""
    upright: ClassVar[bool]
    """Whether rows run from top to bottom; otherwise show ``slice.T``."""
    mirror_axis: ClassVar[int]
    """Axis of a slice (0 rows, 1 columns) along which left and right lie."""
    keeps_volume_scale: ClassVar[bool]
    """Whether intensities are comparable between the slices of one volume."""

    def __init__(self, root: Path, channel: int | None = None) -> None:
        self.root = Path(root)
        self.channel = self.default_channel if channel is None else channel
        if not 0 <= self.channel < len(self.channel_names):
            allowed = ", ".join(f"{i} ({name})" for i, name in enumerate(self.channel_names))
            raise UserError(f"{self.name} has no channel {channel}; choose one of: {allowed}")

    def __getstate__(self) -> dict[str, Any]:
        # The cached listing (57,195 paths for BraTS) must not travel with every task.
        return {"root": self.root, "channel": self.channel}

    @abstractmethod
    def patients(self) -> list[Patient]:
        """List the patients in natural order of their names, without reading pixels.

        Raises:
            UserError: the root is missing, holds no file of this source, or holds
                two files that claim to be the same slice or volume.
        """

    @abstractmethod
    def read(self, patient: Patient) -> Volume:
        """Read one patient.

        Raises:
            UserError: a file is absent, unreadable or not what this source expects;
                the message names the file.
        """

    @abstractmethod
    def missing_files(self) -> list[str]:
        """Names of files that a listing or a numbering announces but that are absent."""

    @abstractmethod
    def read_channels(self, path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read all channels and mask planes behind one of a patient's files.

        Returns:
            image (C, H, W) for a slice file or (C, S, H, W) for a volume file, one
            channel per ``channel_names`` (NaN where a modality has no file), and masks
            (P, H, W) or (P, S, H, W) in {0, 1}, one plane per ``plane_names``.

        Raises:
            UserError: as ``read``.
        """

    @cached_property
    def names(self) -> NameMapping:
        """Other names, persons and grades of the patients (``name_mapping.csv``, if any)."""
        return NameMapping.find(self._paths)

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(walk(self.root))


def open_source(name: str, root: Path, channel: int | None = None) -> Source:
    """Build the source registered as ``name``.

    Raises:
        UserError: unknown name or channel.
    """
    source: Source = SOURCES.build(name, {}, root, channel)
    return source


def open_data_source(data: Data) -> Source:
    """Build the source that a config's ``data`` block names.

    Raises:
        UserError: a modality that this source does not hold.
    """
    names = CHANNELS.get(data.source)
    if names is None:
        return open_source(data.source, data.root)
    if data.modalities[0] not in names:
        raise UserError(f"{data.source} has no {data.modalities[0]}; it has {', '.join(names)}")
    return open_source(data.source, data.root, names.index(data.modalities[0]))


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that orders embedded numbers by value: ``a2`` before ``a10``."""
    parts = re.findall(r"\d+|\D+", name)
    # Not isdigit(): that is also true of superscripts, which are no number to int().
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)

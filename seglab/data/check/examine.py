"""Reads everything that belongs to one patient, and keeps what the report needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.check.layout import layout
from seglab.data.check.probe import Probe, probe
from seglab.data.duplicates import Fingerprint, fingerprint
from seglab.data.files import MAX_SIDE_PX
from seglab.data.sources import Patient, Source
from seglab.data.sources.adapter import pieces as parts_of

PROBES = 3
"""Slices of a patient on which the channels are compared."""


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, and why."""

    file: str
    """Relative to the root."""
    reason: str


@dataclass(frozen=True)
class Examined:
    """One patient, read."""

    patient_id: str
    slices: int
    tumour_slices: int
    bad_files: tuple[BadFile, ...]
    layouts: tuple[tuple[str, str], ...]
    """(file relative to the root, its form), one of each form that occurs."""
    overlapping_px: int
    """Pixels that more than one mask plane claims."""
    constant_slices: int
    """Slices whose chosen channel has one value throughout."""
    repeated_channels: tuple[int, ...]
    """Other channels that equal the chosen one, slice by slice."""
    fingerprint: Fingerprint | None
    probes: tuple[Probe, ...]
    example: tuple[Path, int, int] | None
    """File, position in it, and richness of the slice that shows most of a tumour."""


@dataclass(frozen=True)
class _Stack:
    """All readable slices: image (C, S, H, W), planes (P, S, H, W), and where each came from."""

    image: NDArray[np.float32]
    planes: NDArray[np.uint8]
    slice_indices: NDArray[np.int32]
    places: list[tuple[Path, int]]


def examine(source: Source, patient: Patient) -> Examined:
    """Read all files of a patient; one that is bad is noted, and the others read on."""
    bad: list[BadFile] = []
    forms: dict[str, str] = {}
    pieces: list[_Stack] = []
    for piece in parts_of(patient):
        try:
            stack = _read(source, piece)
            if pieces:
                _check_like(piece.files[0], stack, pieces[0])
            for path in piece.files:
                forms.setdefault(layout(path), _relative(source, path))
        except UserError as error:
            bad.append(_bad_file(source, piece, error))
        else:
            pieces.append(stack)
    layouts = tuple((file, form) for form, file in forms.items())
    if not pieces:
        return Examined(patient.patient_id, 0, 0, tuple(bad), layouts, 0, 0, (), None, (), None)
    return _measure(source, patient, _join(pieces), tuple(bad), layouts)


def _measure(
    source: Source,
    patient: Patient,
    stack: _Stack,
    bad: tuple[BadFile, ...],
    layouts: tuple[tuple[str, str], ...],
) -> Examined:
    chosen = stack.image[source.channel]
    mask = stack.planes.max(axis=0)
    tumour_px = mask.sum(axis=(1, 2), dtype=np.int64)
    # First the slices that show most parts of a tumour, among them the one with most of it.
    richness = stack.planes.any(axis=(2, 3)).sum(axis=0) * MAX_SIDE_PX**2 + tumour_px
    richest = int(richness.argmax())
    flat = chosen.reshape(len(chosen), -1)
    return Examined(
        patient_id=patient.patient_id,
        slices=len(chosen),
        tumour_slices=int(np.count_nonzero(tumour_px)),
        bad_files=bad,
        layouts=layouts,
        overlapping_px=int(np.count_nonzero(stack.planes.sum(axis=0, dtype=np.uint8) > 1)),
        constant_slices=int(np.count_nonzero(flat.max(axis=1) == flat.min(axis=1))),
        repeated_channels=tuple(
            index
            for index, channel in enumerate(stack.image)
            if index != source.channel and np.array_equal(channel, chosen)
        ),
        fingerprint=fingerprint(patient.patient_id, chosen, mask, stack.slice_indices),
        probes=tuple(
            probe(
                np.ascontiguousarray(stack.image[:, index]),
                stack.planes[:, index],
                source.plane_names,
                source.mirror_axis,
            )
            for index in _probed(tumour_px)
        ),
        example=(*stack.places[richest], int(richness[richest])),
    )


def _probed(tumour_px: NDArray[np.int64]) -> NDArray[np.intp]:
    """Slices with at least half of the largest tumour area, or the middle of the stack."""
    rich = np.flatnonzero((tumour_px > 0) & (tumour_px >= tumour_px.max() / 2))
    if not rich.size:
        rich = np.arange(int(0.4 * len(tumour_px)), max(int(0.7 * len(tumour_px)), 1))
    return np.unique(rich[np.linspace(0, len(rich) - 1, PROBES).round().astype(np.intp)])


def _read(source: Source, piece: Patient) -> _Stack:
    """Read a piece with all of its channels; the chosen one must be there."""
    if source.modality not in piece.images:
        source.read(piece, (source.modality,))  # Raises, and says what is absent.
    path = piece.files[0]
    image, planes, indices = source.read_channels(piece)
    places = [(path, position) for position in range(image.shape[1])]
    return _Stack(image, planes, indices, places)


def _check_like(path: Path, stack: _Stack, first: _Stack) -> None:
    if stack.image.shape[2:] != first.image.shape[2:]:
        ours, theirs = stack.image.shape[2:], first.image.shape[2:]
        raise UserError(f"{path} has the shape {ours}; its volume has {theirs}")


def _join(pieces: list[_Stack]) -> _Stack:
    if len(pieces) == 1:
        return pieces[0]
    return _Stack(
        np.concatenate([piece.image for piece in pieces], axis=1),
        np.concatenate([piece.planes for piece in pieces], axis=1),
        np.concatenate([piece.slice_indices for piece in pieces]),
        [place for piece in pieces for place in piece.places],
    )


def _bad_file(source: Source, piece: Patient, error: UserError) -> BadFile:
    """Name the file that the error is about, and take its path out of the reason."""
    reason = str(error)
    match = re.match(
        rf"({re.escape(str(source.root))}\S*?\.(?:h5|tif|nii\.gz|nii))(?=[\s:])", reason
    )
    if match is None:
        named = piece.files[0].name if piece.files else piece.patient_id
        return BadFile(named, reason)
    return BadFile(_relative(source, Path(match[1])), reason[match.end() :].lstrip(": "))


def _relative(source: Source, path: Path) -> str:
    return str(path.relative_to(source.root))

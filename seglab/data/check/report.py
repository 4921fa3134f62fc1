"""What ``data check`` found: one JSON for programs, one page for a person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seglab.data.check.channels import ChannelEvidence, Identity
from seglab.data.check.examine import BadFile
from seglab.data.duplicates import Duplicate

SHOWN = 5
"""Lines of each list on the page; the JSON holds all."""


@dataclass(frozen=True)
class SharedPatient:
    """One person who is in this source and in another."""

    patient: str
    other: str
    source: str
    """Name and root of the other source."""


@dataclass(frozen=True)
class Example:
    """The slice that shows most of a tumour, for a picture of the channels."""

    patient_id: str
    path: Path
    position: int
    """Slice within the file; 0 where a file is a slice."""


@dataclass(frozen=True)
class CheckReport:
    """All findings on one data set."""

    source: str
    root: Path
    patients: int
    slices: int
    tumour_slices: int
    missing_files: tuple[str, ...]
    bad_files: tuple[BadFile, ...]
    surprises: tuple[str, ...]
    """One line each: other forms than most files have, overlapping planes, flat slices, …"""
    duplicates: tuple[Duplicate, ...]
    same_person: tuple[tuple[str, ...], ...]
    """Names in this source that belong to one person."""
    shared_patients: tuple[SharedPatient, ...]
    tcga_patients: int
    """Patients with a TCGA id, who may be in other public sets as well."""
    identity: Identity
    example: Example | None

    @property
    def ok(self) -> bool:
        """Whether the data can be trained on as they are: right channel, no bad file."""
        return self.identity.ok and not self.bad_files

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; figures that are not known are None."""
        return {
            "source": self.source,
            "root": str(self.root),
            "patients": self.patients,
            "slices": self.slices,
            "tumour_slices": self.tumour_slices,
            "missing_files": list(self.missing_files),
            "bad_files": [asdict(one) for one in self.bad_files],
            "surprises": list(self.surprises),
            "duplicates": [_duplicate_json(one) for one in self.duplicates],
            "same_person": [list(names) for names in self.same_person],
            "shared_patients": [asdict(one) for one in self.shared_patients],
            "tcga_patients": self.tcga_patients,
            "identity": self.identity.to_json(),
        }

    def to_text(self) -> str:
        """One page."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.source} in {self.root}"
        share = f" ({self.tumour_slices / self.slices:.1%})" if self.slices else ""
        yield (
            f"  {self.patients:,} patients, {self.slices:,} slices, "
            f"{self.tumour_slices:,} with tumour{share}"
        )
        yield from _section("missing files", self.missing_files)
        yield from _section("bad files", (f"{one.file}: {one.reason}" for one in self.bad_files))
        yield from _section("surprises", self.surprises)
        yield from _section("duplicates", map(_duplicate_line, self.duplicates))
        yield from _section("one person, several names", map(" = ".join, self.same_person))
        shared = (f"{one.patient} = {one.other} in {one.source}" for one in self.shared_patients)
        yield from _section("patients shared with another source", shared)
        if self.tcga_patients and not self.shared_patients:
            yield f"  {self.tcga_patients} patients have a TCGA id: other public sets may hold them"
        yield ""
        yield f"identity: {self.identity.verdict}: {self.identity.reason}"
        yield from _channel_table(self.identity.channels, self.identity.channel)


def _section(title: str, found: Iterable[str]) -> Iterator[str]:
    lines: Sequence[str] = list(found)
    yield f"  {title}: {f'{len(lines):,}' if lines else 'none'}"
    yield from (f"    {line}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"    … and {len(lines) - SHOWN:,} more (all in the JSON)"


def _channel_table(channels: Sequence[ChannelEvidence], chosen: int) -> Iterator[str]:
    heading = ("channel", "looks like", "tumour", "CSF", "CSF brightness", "enhancing", "patients")
    rows = [
        (
            f"{'>' if one.channel == chosen else ' '} {one.channel} {one.name}",
            one.looks_like,
            _sigma(one.lesion_z),
            _sigma(one.csf_z),
            "–" if math.isnan(one.csf_brightness) else f"{one.csf_brightness:+.2f}",
            _sigma(one.enhancement_z),
            str(one.patients),
        )
        for one in channels
    ]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    for row in (heading, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
    yield (
        "  tumour and CSF: σ above healthy tissue; CSF brightness: −1 dark to +1 bright; "
        "enhancing: σ above necrosis"
    )


def _sigma(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f} σ"


def _duplicate_line(one: Duplicate) -> str:
    if one.identical:
        return f"{one.first} = {one.second}: every voxel is equal"
    masks = "" if math.isnan(one.mask_dice) else f", Dice of their masks {one.mask_dice:.2f}"
    return f"{one.first} ≈ {one.second}: correlation {one.similarity:.3f}{masks}"


def _duplicate_json(one: Duplicate) -> dict[str, Any]:
    return {
        "patients": [one.first, one.second],
        "similarity": one.similarity,
        "mask_dice": None if math.isnan(one.mask_dice) else one.mask_dice,
        "identical": one.identical,
        "slices": one.slices,
    }

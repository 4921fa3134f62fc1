"""Looks at every file of a data set before anything is trained on it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from seglab.core.config import MODALITIES
from seglab.core.errors import UserError, unknown_name
from seglab.core.machine import available_cores, progress, worker_pool
from seglab.data.duplicates import Fingerprint, duplicates, fingerprint
from seglab.data.identity import Figures, Identity, identify, measure
from seglab.data.names import NameMapping, shared_patients
from seglab.data.sources.base import Source
from seglab.data.volume import Patient, Volume

WORTH_PROCESSES_BYTES = 2**26
"""Below this much on disk, starting processes costs more than it gains."""
MIN_SLICES = 5  # a patient is called wrong by itself only from so many slices
SHOWN = 5  # lines of each list on the page; the JSON holds all


@dataclass(frozen=True)
class Examined:
    """One patient, read; of one with bad files only the slices are counted."""

    row: dict[str, Any]  # of the JSON's ``patient_list``
    bad_files: list[dict[str, str]]  # ``file``, or the patient where none is named, and ``reason``
    figures: dict[str, Figures] | None = None
    fingerprint: Fingerprint | None = None
    richest: tuple[int, int, int] = (0, 0, 0)
    """Parts and pixels of tumour, and position, of the slice that shows most of it."""


@dataclass(frozen=True)
class CheckReport:
    """All findings on one data set."""

    found: dict[str, Any]  # plain JSON values
    identity: Identity
    example: tuple[str, int] | None
    """(patient, position of a slice) that shows most modalities and most of a tumour."""

    @property
    def ok(self) -> bool:
        """Whether the data can be trained on as they are: no name is wrong, no file bad."""
        return self.identity.ok and not self.found["bad_files"]

    def to_text(self) -> str:
        """One page."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found = self.found
        yield f"{found['source']} in {found['root']}"
        share = f" ({found['tumour_slices'] / found['slices']:.1%})" if found["slices"] else ""
        counts = "  {patients:,} patients, {slices:,} slices, {tumour_slices:,} with tumour"
        yield counts.format_map(found) + share
        listed = [one for one in found["patient_list"] if one["modalities"]]
        yield f"  modalities: {_counts(' '.join(one['modalities']) for one in listed)}"
        marked = _counts(one["labels"] for one in listed if one["tumour_slices"])
        yield f"  labels: {marked or 'none'}"
        lists = {
            "missing files": found["missing_files"],
            "bad files": map("{file}: {reason}".format_map, found["bad_files"]),
            "surprises": found["surprises"],
            "duplicates": map(_duplicate_line, found["duplicates"]),
            "one person, several names": (
                f"{' = '.join(one['patients'])}: {one['rule']}" for one in found["persons"]
            ),
            "patients shared with another source": map(
                "{patient} = {other} in {source}".format_map, found["shared_patients"]
            ),
        }
        for title, lines in ((title, list(lines)) for title, lines in lists.items()):
            yield f"  {title}: {f'{len(lines):,}' if lines else 'none'}"
            yield from (f"    {line}" for line in lines[:SHOWN])
            if len(lines) > SHOWN:
                yield f"    … and {len(lines) - SHOWN:,} more (all in the JSON)"
        yield "identity:"
        for one in self.identity.modalities:
            yield f"  {one.modality}: {one.verdict.upper()}: {one.reason}; {one.patients} patients"


def check(
    source: Source,
    modalities: Sequence[str] = ("flair",),
    *,
    others: Sequence[Source] = (),
    workers: int = 0,
) -> CheckReport:
    """Read every file of a data set once and report; a bad file is noted and passed over.

    ``modalities`` are those that every patient must have. ``others`` are data sets in which people
    of this one are looked for. ``workers`` 0 takes a process a core, none for a small set.
    Raises UserError for a modality that the source never has, or where there is nothing to check.
    """
    for name in modalities:
        if name not in source.modalities:
            raise unknown_name("modality", name, source.modalities)
    patients = source.patients()
    files = {path for patient in patients for path in patient.files if path.exists()}
    large = sum(path.stat().st_size for path in files) > WORTH_PROCESSES_BYTES
    count = min(workers or (available_cores() if large else 1), len(patients))
    with worker_pool(count) as pool_map:
        results = pool_map(partial(examine, source, tuple(modalities)), patients)
        examined = list(progress(results, "checking", total=len(patients), unit="patient"))
    rows = [one.row for one in examined]
    read = [one for one in examined if one.figures]
    named = [name for name in MODALITIES if any(name in row["modalities"] for row in rows)]
    identity = identify([one.figures for one in read if one.figures], named)
    most = max(read, key=lambda one: (len(one.row["modalities"]), one.richest), default=None)
    same = duplicates([one.fingerprint for one in examined if one.fingerprint])
    found = {
        "source": source.name,
        "root": str(source.root),
        "patients": len(rows),
        "slices": sum(row["slices"] for row in rows),
        "tumour_slices": sum(row["tumour_slices"] for row in rows),
        "missing_files": source.missing_files(),
        "bad_files": [bad for one in examined for bad in one.bad_files],
        "surprises": list(_surprises(examined)),
        "duplicates": [asdict(one) for one in same],
        **_of_names(source, [row["patient"] for row in rows], others),
        "patient_list": rows,
        "identity": {"channel": source.modalities.index(modalities[0]), **identity.to_json()},
    }
    return CheckReport(found, identity, (most.row["patient"], most.richest[2]) if most else None)


def _of_names(source: Source, names: Sequence[str], others: Sequence[Source]) -> dict[str, Any]:
    people = source.names.people(names)
    groups = defaultdict(list)
    for name, person in people.items():
        groups[person.name].append(name)
    mapping = NameMapping({k: v for one in (*others, source) for k, v in one.names.persons.items()})
    return {
        "persons": [
            {"person": person, "patients": group, "rule": people[group[0]].rule}
            for person, group in groups.items()
            if len(group) > 1
        ],
        "shared_patients": [
            {"patient": ours, "other": twin, "source": f"{other.name} in {other.root}"}
            for other in others
            for ours, twin in shared_patients(
                names, [patient.patient_id for patient in other.patients()], mapping
            )
        ],
    }


def examine(source: Source, modalities: Sequence[str], patient: Patient) -> Examined:
    """Read a patient, who must have ``modalities``; where that fails, find every bad file."""
    name, there = patient.patient_id, [name for name in MODALITIES if name in patient.images]
    bad = [{"file": name, "reason": f"it has no {one}"} for one in modalities if one not in there]
    row = {"patient": name, "modalities": (), "slices": 0, "tumour_slices": 0, "labels": ""}
    row |= {"form": "", "remarks": ()}
    try:
        volume = source.read(patient, there)
    except UserError as error:
        return _search_bad_files(source, patient, Examined(row, bad), error)
    tumour_px = np.count_nonzero(volume.labels, axis=(1, 2))
    parts = sum((volume.labels == label).any(axis=(1, 2)) for label in range(1, 5))
    richest = int(np.lexsort((tumour_px, parts))[-1])
    row |= {"slices": len(tumour_px), "tumour_slices": int(np.count_nonzero(tumour_px))}
    row |= {"modalities": volume.modalities, "labels": volume.convention}
    row |= {"form": _form(volume), "remarks": volume.remarks}
    return Examined(
        row,
        bad,
        measure(volume.images, volume.modalities, volume.labels, mirror_axis=source.mirror_axis),
        fingerprint(name, volume.images[0], volume.slice_indices),
        (int(parts[richest]), int(tumour_px[richest]), richest),
    )


def _search_bad_files(
    source: Source, patient: Patient, examined: Examined, error: UserError
) -> Examined:
    """Read slice by slice, or modality by modality where a file is a volume."""
    images = patient.images
    pieces = [{name: paths} for name, paths in images.items()]
    if max(map(len, images.values())) > 1:
        slices = zip(*images.values(), strict=True)
        pieces = [{n: (path,) for n, path in zip(images, paths, strict=True)} for paths in slices]
    has_tumour: dict[int, bool] = {}
    reasons = []
    for piece in pieces:
        try:
            volume = source.read(replace(patient, images=piece), tuple(piece))
        except UserError as another:
            reasons.append(str(another))
        else:
            marked = np.count_nonzero(volume.labels, axis=(1, 2)) > 0
            has_tumour |= dict(zip(volume.slice_indices.tolist(), marked.tolist(), strict=True))
    start = re.escape(str(source.root))
    for reason in dict.fromkeys(reasons or [str(error)]):  # they begin with the file
        path = re.match(rf"{start}/(.+?\.(h5|tiff?|nii\.gz|nii))[\s:]+", reason)
        name = patient.patient_id
        file, rest = (path[1], reason[path.end() :]) if path else (name, reason)
        rest = rest.removeprefix(f"{name} ")
        examined.bad_files.append({"file": file, "reason": rest})
    counts = {"slices": len(has_tumour), "tumour_slices": sum(has_tumour.values())}
    return replace(examined, row=examined.row | counts)


def _form(volume: Volume) -> str:
    height, width = volume.labels.shape[1:]
    mm = volume.spacing_mm
    spacing = " × ".join(f"{each:.3g}" for each in mm) + " mm" if mm else "unknown spacing"
    return f"{height} × {width} px, {spacing}"


def _surprises(examined: Sequence[Examined]) -> Iterator[str]:
    rows = [one.row for one in examined]
    forms = Counter(row["form"] for row in rows if row["form"]).most_common()
    for form, count in forms[1:]:
        name = next(row["patient"] for row in rows if row["form"] == form)
        yield f"{form} in {count} patients (as {name}), {forms[0][0]} in {forms[0][1]}"
    for one in examined:
        for wrong in identify([one.figures or {}], one.row["modalities"]).wrong:
            if wrong.figures.slices >= MIN_SLICES:
                yield f"{one.row['patient']}: {wrong.modality} {wrong.reason}"
    remarks = defaultdict(list)
    for row in rows:
        empty = row["modalities"] and not row["tumour_slices"]
        for remark in (*row["remarks"], *["its mask marks no tumour"] * bool(empty)):
            remarks[remark].append(row["patient"])
    for remark, (first, *rest) in remarks.items():
        yield f"{first}{f' and {len(rest)} more' if rest else ''}: {remark}"


def _counts(words: Iterable[str]) -> str:
    return ", ".join(
        f"{word} ({n} patient{'s' * (n > 1)})" for word, n in Counter(words).most_common()
    )


def _duplicate_line(one: dict[str, Any]) -> str:
    first, second = one["patients"]
    if one["identical"]:
        return f"{first} = {second}: every voxel is equal"
    return f"{first} ≈ {second}: correlation {one['similarity']:.3f}"

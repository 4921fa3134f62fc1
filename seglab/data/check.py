"""Looks at every file of a data set before anything is trained on it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seglab.core.config import MODALITIES
from seglab.core.errors import UserError, unknown_name
from seglab.core.machine import available_cores, progress
from seglab.data.duplicates import Fingerprint, duplicates, fingerprint
from seglab.data.identity import Figures, Identity, identify, measure
from seglab.data.names import NameMapping, shared_patients, tcga_person
from seglab.data.sources import Source
from seglab.data.volume import Patient, Volume
from seglab.data.workers import worker_pool

WORTH_PROCESSES_BYTES = 2**26
"""Below this much on disk, starting processes costs more than it gains."""
MIN_SLICES = 5
"""A patient is called wrong by itself only from so many slices."""
SHOWN = 5
"""Lines of each list on the page; the JSON holds all."""


@dataclass(frozen=True)
class Examined:
    """One patient, read; of one with bad files only the slices are counted."""

    patient: str
    bad_files: tuple[tuple[str, str], ...] = ()
    """(file, reason): relative to the root; the patient's name where no file is named."""
    slices: int = 0
    tumour_slices: int = 0
    modalities: tuple[str, ...] = ()
    labels: str = ""
    """The convention by which they were read."""
    form: str = ""
    """Pixels and spacing of a slice."""
    remarks: tuple[str, ...] = ()
    figures: dict[str, Figures] | None = None
    fingerprint: Fingerprint | None = None
    richest: tuple[int, int, int] = (0, 0, 0)
    """Parts and pixels of tumour, and position, of the slice that shows most of it."""


@dataclass(frozen=True)
class CheckReport:
    """All findings on one data set."""

    found: dict[str, Any]
    """Plain JSON values."""
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
        yield (
            f"  {found['patients']:,} patients, {found['slices']:,} slices, "
            f"{found['tumour_slices']:,} with tumour{share}"
        )
        listed = [one for one in found["patient_list"] if one["modalities"]]
        yield f"  modalities: {_counts(' '.join(one['modalities']) for one in listed)}"
        yield f"  labels: {_counts(one['labels'] for one in listed)}"
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
        if found["tcga_patients"] and not found["shared_patients"]:
            yield f"  {found['tcga_patients']} patients have a TCGA id: other sets may hold them"
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

    Args:
        source: the data set.
        modalities: those that every patient must have; all that are there are looked at.
        others: further data sets, to find people who are in both.
        workers: processes; 0 takes one a core, and none for a small set.

    Raises:
        UserError: a modality that the source does not hold, nothing to check (see
            ``Source.patients``), or a worker was killed from outside.
    """
    for name in modalities:
        if name not in source.modalities:
            raise unknown_name("modality", name, source.modalities)
    patients = source.patients()
    files = {path for patient in patients for path in patient.files if path.exists()}
    large = sum(path.stat().st_size for path in files) > WORTH_PROCESSES_BYTES
    with worker_pool(
        min(workers or (available_cores() if large else 1), len(patients))
    ) as pool_map:
        results = pool_map(partial(examine, source, tuple(modalities)), patients)
        examined = list(progress(results, "checking", total=len(patients), unit="patient"))
    read = [one for one in examined if one.figures]
    named = [name for name in MODALITIES if any(name in one.modalities for one in read)]
    identity = identify([one.figures for one in read if one.figures], named)
    example = max(read, key=lambda one: (len(one.modalities), one.richest), default=None)
    keys = ("patient", "modalities", "slices", "tumour_slices", "labels", "form", "remarks")
    same = duplicates([one.fingerprint for one in examined if one.fingerprint])
    found = {
        "source": source.name,
        "root": str(source.root),
        "patients": len(examined),
        "slices": sum(one.slices for one in examined),
        "tumour_slices": sum(one.tumour_slices for one in examined),
        "missing_files": source.missing_files(),
        "bad_files": [{"file": f, "reason": r} for one in examined for f, r in one.bad_files],
        "surprises": list(_surprises(examined)),
        "duplicates": [asdict(one) for one in same],
        **_of_names(source, [patient.patient_id for patient in patients], others),
        "patient_list": [{key: getattr(one, key) for key in keys} for one in examined],
        "identity": {"channel": source.modalities.index(modalities[0]), **identity.to_json()},
    }
    return CheckReport(found, identity, (example.patient, example.richest[2]) if example else None)


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
        "tcga_patients": sum(tcga_person(source.names.person(name)) is not None for name in names),
    }


def examine(source: Source, modalities: Sequence[str], patient: Patient) -> Examined:
    """Read a patient, who must have ``modalities``; where that fails, find every bad file."""
    absent = [name for name in modalities if name not in patient.images]
    bad = [(patient.patient_id, f"it has no {name}") for name in absent]
    there = [name for name in MODALITIES if name in patient.images]
    try:
        volume = source.read(patient, there)
    except UserError as error:
        return _search_bad_files(source, patient, bad, error)
    tumour_px = np.count_nonzero(volume.labels, axis=(1, 2))
    parts = sum((volume.labels == label).any(axis=(1, 2)) for label in range(1, 5))
    richest = int(np.lexsort((tumour_px, parts))[-1])
    return Examined(
        patient.patient_id,
        tuple(bad),
        len(tumour_px),
        int(np.count_nonzero(tumour_px)),
        volume.modalities,
        volume.convention,
        _form(volume),
        volume.remarks,
        measure(volume.images, volume.modalities, volume.labels, mirror_axis=source.mirror_axis),
        fingerprint(patient.patient_id, volume.images[0], volume.slice_indices),
        (int(parts[richest]), int(tumour_px[richest]), richest),
    )


def _search_bad_files(
    source: Source, patient: Patient, bad: list[tuple[str, str]], error: UserError
) -> Examined:
    """Read slice by slice, or modality by modality where a file is a volume."""
    images = patient.images
    pieces = [{name: paths} for name, paths in images.items()]
    if max(map(len, images.values()), default=0) > 1:
        slices = zip(*images.values(), strict=True)
        pieces = [{n: (path,) for n, path in zip(images, paths, strict=True)} for paths in slices]
    tumour_px: dict[int, int] = {}
    found: list[UserError] = []
    for piece in pieces:
        try:
            volume = source.read(replace(patient, images=piece), tuple(piece))
        except UserError as another:
            found.append(another)
        else:
            marked = np.count_nonzero(volume.labels, axis=(1, 2)).tolist()
            tumour_px |= dict(zip(volume.slice_indices.tolist(), marked, strict=True))
    bad += [_bad_file(source.root, patient, str(each)) for each in found or [error]]
    tumour_slices = sum(px > 0 for px in tumour_px.values())
    return Examined(patient.patient_id, tuple(dict.fromkeys(bad)), len(tumour_px), tumour_slices)


def _bad_file(root: Path, patient: Patient, reason: str) -> tuple[str, str]:
    """Name the file that the error is about, and take its path out of the reason."""
    files = rf"({re.escape(str(root))}.+?\.(?:h5|tiff?|nii\.gz|nii))(?=[\s:])"
    match = re.match(files, reason)
    if match is None:
        return patient.patient_id, reason
    return str(Path(match[1]).relative_to(root)), reason[match.end() :].lstrip(": ")


def _form(volume: Volume) -> str:
    height, width = volume.labels.shape[1:]
    mm = volume.spacing_mm
    spacing = " × ".join(f"{each:.3g}" for each in mm) + " mm" if mm else "unknown spacing"
    return f"{height} × {width} px, {spacing}"


def _surprises(examined: Sequence[Examined]) -> Iterator[str]:
    forms = Counter(one.form for one in examined if one.form).most_common()
    for form, count in forms[1:]:
        name = next(one.patient for one in examined if one.form == form)
        yield f"{form} in {count} patients (as {name}), {forms[0][0]} in {forms[0][1]}"
    remarks = defaultdict(list)
    for one in examined:
        for remark in one.remarks:
            remarks[remark].append(one.patient)
        identity = identify([one.figures] if one.figures else [], one.modalities)
        for wrong in identity.wrong:
            if wrong.figures.slices >= MIN_SLICES:
                yield f"{one.patient}: {wrong.modality} {wrong.reason}"
    for remark, (first, *rest) in remarks.items():
        yield f"{first}{f' and {len(rest)} more' if rest else ''}: {remark}"


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{word} ({n} patients)" for word, n in Counter(words).most_common())


def _duplicate_line(one: dict[str, Any]) -> str:
    first, second = one["patients"]
    if one["identical"]:
        return f"{first} = {second}: every voxel is equal"
    return f"{first} ≈ {second}: correlation {one['similarity']:.3f}"

"""Examines all patients, in parallel where it is worth it, and draws the conclusions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from seglab.core.machine import available_cores
from seglab.core.progress import progress
from seglab.data.check.channels import identify
from seglab.data.check.examine import Examined, examine
from seglab.data.check.report import CheckReport, Example, SharedPatient
from seglab.data.duplicates import duplicates
from seglab.data.persons import tcga_person
from seglab.data.sources import NameMapping, Patient, Source, shared_patients
from seglab.data.workers import Workers

WORTH_PROCESSES_BYTES = 2**26
"""Below this much on disk, starting processes costs more than it gains."""


def check(source: Source, *, others: Sequence[Source] = (), workers: int = 0) -> CheckReport:
    """Read every file of a data set once and report; a bad file is noted and passed over.

    Args:
        source: the data set, with its chosen channel.
        others: further data sets, to find people who are in both.
        workers: processes; 0 takes one a core, and none for a small set.

    Raises:
        UserError: there is nothing to check (see ``Source.patients``), or a worker was
            killed from outside.
    """
    patients = source.patients()
    examined = list(_examine_all(source, patients, workers))
    names = [patient.patient_id for patient in patients]
    mapping = _join_mappings([source, *others])
    return CheckReport(
        source=source.name,
        root=source.root,
        patients=len(patients),
        slices=sum(one.slices for one in examined),
        tumour_slices=sum(one.tumour_slices for one in examined),
        missing_files=tuple(source.missing_files()),
        bad_files=tuple(bad for one in examined for bad in one.bad_files),
        surprises=tuple(_surprises(source, examined)),
        duplicates=duplicates([one.fingerprint for one in examined if one.fingerprint]),
        same_person=_same_person(names, mapping),
        shared_patients=tuple(_shared(names, others, mapping)),
        tcga_patients=sum(tcga_person(mapping.person(name)) is not None for name in names),
        identity=identify([one.probes for one in examined], source.channel_names, source.channel),
        example=_example(examined),
    )


def _examine_all(source: Source, patients: list[Patient], workers: int) -> Iterator[Examined]:
    workers = min(workers or _useful_workers(patients), len(patients))
    with Workers(workers, partial(_hold, source)) as pool:
        examined = pool.map(_examine_held, patients)
        yield from progress(examined, "checking", total=len(patients), unit="patient")


def _useful_workers(patients: Sequence[Patient]) -> int:
    total = 0
    for patient in patients:
        total += sum(path.stat().st_size for path in patient.files if path.exists())
        if total > WORTH_PROCESSES_BYTES:
            return available_cores()
    return 1


# Held by the worker: a source that travelled with each task would list its folder each time.
_source: Source | None = None


def _hold(source: Source) -> None:
    global _source
    _source = source


def _examine_held(patient: Patient) -> Examined:
    assert _source is not None
    return examine(_source, patient)


def _surprises(source: Source, examined: Sequence[Examined]) -> Iterator[str]:
    yield from _odd_layouts(examined)
    overlapping = [one for one in examined if one.overlapping_px]
    if overlapping:
        pixels = sum(one.overlapping_px for one in overlapping)
        yield f"mask planes overlap in {pixels:,} px of {_some(overlapping)}"
    flat = sum(one.constant_slices for one in examined)
    if flat:
        yield f"{flat:,} slices have one value throughout (usual at the ends of a stack)"
    for channel, name in enumerate(source.channel_names):
        repeated = [one for one in examined if channel in one.repeated_channels]
        if repeated:
            yield f"channel {channel} ({name}) repeats the chosen one in {_some(repeated)}"


def _odd_layouts(examined: Sequence[Examined]) -> Iterator[str]:
    """Forms of a part (image, labels, …) that fewer patients have than the usual form."""
    parts: dict[str, Counter[str]] = {}
    example: dict[str, str] = {}
    for one in examined:
        for file, form in one.layouts:
            parts.setdefault(form.split()[0], Counter())[form] += 1
            example.setdefault(form, file)
    for counts in parts.values():
        (usual, most), *rest = counts.most_common()
        for form, count in rest:
            yield f"{form} in {count} patients (as {example[form]}), {usual} in {most}"


def _some(examined: Sequence[Examined]) -> str:
    names = ", ".join(one.patient_id for one in examined[:3])
    more = f" and {len(examined) - 3} more" if len(examined) > 3 else ""
    return f"{len(examined)} patient(s): {names}{more}"


def _join_mappings(sources: Iterable[Source]) -> NameMapping:
    persons: dict[str, str] = {}
    for source in sources:
        persons = {**source.names.persons, **persons}
    return NameMapping(persons)


def _same_person(names: Sequence[str], mapping: NameMapping) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(mapping.person(name), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _shared(
    names: Sequence[str], others: Sequence[Source], mapping: NameMapping
) -> Iterator[SharedPatient]:
    for other in others:
        theirs = [patient.patient_id for patient in other.patients()]
        for ours, twin in shared_patients(names, theirs, mapping):
            yield SharedPatient(ours, twin, f"{other.name} in {other.root}")


def _example(examined: Sequence[Examined]) -> Example | None:
    candidates = [(one.example[2], one.patient_id, one.example) for one in examined if one.example]
    if not candidates:
        return None
    _, patient_id, (path, position, _) = max(candidates)
    return Example(patient_id, Path(path), position)

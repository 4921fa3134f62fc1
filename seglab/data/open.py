"""From a config's ``data`` and ``split`` blocks to an opened cache and a split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from seglab.core.config import Data, RunConfig
from seglab.core.errors import UserError
from seglab.core.machine import progress, tell, tell_once
from seglab.data.cache import Cache, open_cache
from seglab.data.duplicates import SAME, Fingerprint, duplicates, fingerprint
from seglab.data.identity import Identity, identify, measure
from seglab.data.prepare import prepare, some_names
from seglab.data.sealed import SealedCache
from seglab.data.sources.base import Source, open_data_source
from seglab.data.splits import MIN_PATIENTS, Split, SplitPatient, make_split
from seglab.data.volume import Patient

IDENTITY_SAMPLE = 12
"""Patients looked at, at every start, to judge the names of the modalities: half a second."""
PAIRS = "duplicates.json"
SAME_VOLUME = "the same volume"


@dataclass(frozen=True)
class StudyData:
    """Everything about the data that a run needs; see :mod:`seglab.data.sealed`."""

    cache: Cache
    split: Split
    identity: Identity  # whether the images are what their modalities are called
    missing_files: int  # files that the set should hold and does not: a half-finished download


def open_data(config: RunConfig, *, warn: bool = True) -> StudyData:
    """Open the cache of a run and divide its patients; those of the test cannot be read.

    Raises UserError for bad files, patients that lack a modality, too few patients, and data on
    which nothing can be learnt or scored.
    """
    source = open_data_source(config.data)
    cache, _ = fill_cache(config.data, source, warn=warn)
    for plane in (config.model.planes or ())[1:]:  # without the patients who do not have it
        update = {"plane": plane, "on_bad_file": "skip"}
        further, _ = fill_cache(config.data.model_copy(update=update), source, warn=False)
        cache.further += (further,)
        for _, reason in further.skipped if warn else ():
            tell(f"warning: {reason}")
    among = f"of the {len(cache.patients)} patients in {source.root}"
    if not cache.row_brain_px.any():
        raise UserError(f"every image {among} is constant")
    what = "tumour" if cache.target == "whole" else f"data.target={cache.target}"
    if not any(patient.tumour_px.any() for patient in cache.patients):
        raise UserError(f"none {among} has a pixel of {what}")
    missing = source.missing_files()
    if warn and missing:
        lost = f"{source.root} lacks {len(missing):,} files of its set, {missing[0]} the first"
        tell_once(f"warning: {lost}: the rest is used (data check lists them)")
    split = make_split(split_patients(cache, source), config.split)
    for part, names in (("training", split.train), ("validation", split.val)):
        if not any(cache.by_id[name].tumour_px.any() for name in names):
            few = f"none of the {len(names)} {part} patients has a pixel of {what}"
            raise UserError(f"{few}: set another split.seed or split.fractions")
    if warn and split.redrawn:
        tell_once(split.redrawn)
    sealed = SealedCache(cache, split)
    identity = judge_channel(sealed, warn=warn)
    return StudyData(sealed, split, identity, len(missing))


def fill_cache(data: Data, source: Source, *, warn: bool = True) -> tuple[Cache, bool]:
    """Fill the cache, and warn of what a reader should know; see :func:`prepare`."""
    patients, lacking = select_patients(data, source)
    cache, reused = prepare(source, data, patients)
    left_out: dict[str, list[str]] = {}
    for name, reason in lacking.items():
        left_out.setdefault(reason, []).append(name)
    cache.left_out = tuple(f"{why}: {some_names(names, 10)}" for why, names in left_out.items())
    if warn:
        for text, names in cache.remarks.items():
            tell_once(f"{text}: {some_names(names, 3)}")
        for text in cache.left_out:
            tell_once(f"left out, {text}")
        for name, reason in cache.skipped:
            tell(f"warning: {name} is left out: {reason}")
    return cache, reused


def select_patients(data: Data, source: Source) -> tuple[list[Patient], dict[str, str]]:
    """List the patients that have every named or required modality, and the others with the reason.

    Raises UserError where a patient lacks one that is named, and neither ``data.require`` nor
    ``data.on_bad_file`` says that it may be left out.
    """
    wanted = dict.fromkeys((*data.modalities, *data.require))
    every = source.patients()
    absent = {one.patient_id: [name for name in wanted if name not in one.images] for one in every}
    absent = {patient: names for patient, names in absent.items() if names}
    refused = {one: names for one, names in absent.items() if not {*names} & {*data.require}}
    if refused and data.on_bad_file == "fail":
        raise lacks(refused)
    usable = [patient for patient in every if patient.patient_id not in absent]
    if not usable:
        raise UserError(f"no patient in {source.root} has {', '.join(wanted)}")
    return usable[: data.patients], {one: f"no {', '.join(n)}" for one, n in absent.items()}


def lacks(absent: Mapping[str, Sequence[str]]) -> UserError:
    """Build the error for patients that lack modalities."""
    told = some_names([f"{name} ({', '.join(modalities)})" for name, modalities in absent.items()])
    wanted = ", ".join(dict.fromkeys(name for names in absent.values() for name in names))
    remedy = f"'data.require=[{wanted}]' or data.on_bad_file=skip leaves them out"
    who = "1 patient lacks" if len(absent) == 1 else f"{len(absent)} patients lack"
    return UserError(f"{who} a modality: {told}; {remedy}")


def judge_channel(cache: Cache, *, warn: bool = True) -> Identity:
    """Judge whether the images that may be read are what they are called; warn if not."""
    patients, names = list(cache.by_id.values()), cache.modalities
    wanted = min(IDENTITY_SAMPLE, len(patients))
    figures = []
    for place in np.linspace(0, len(patients) - 1, wanted).round().astype(int):
        patient = patients[place]
        images = np.stack([cache.native_image(patient, index) for index in range(len(names))])
        labels = cache.native_labels(patient)
        figures.append(measure(images, names, labels, mirror_axis=cache.mirror_axis))
    identity = identify(figures, names)
    if warn and identity.wrong:
        tell(f"warning: {identity.reason}")
    return identity


def split_patients(cache: Cache, source: Source) -> list[SplitPatient]:
    """Describe the cached patients as a split needs them; one person is one group.

    Two names are one person's where tables or the names say so, or where their volumes are nearly
    the same, directly or through others. The volume is the whole tumour's, whatever the target.
    """
    people = source.names.people(patient.patient_id for patient in cache.patients)
    groups = {name: person.name for name, person in people.items()}
    rules = {name: {person.rule} for name, person in people.items()}
    for first, second in duplicate_pairs(cache):
        if first in groups and second in groups:
            kept, merged = sorted((groups[first], groups[second]))
            groups = {name: kept if own == merged else own for name, own in groups.items()}
            rules[first].add(SAME_VOLUME)
            rules[second].add(SAME_VOLUME)
    return [
        SplitPatient(
            patient_id=patient.patient_id,
            grade=patient.grade,
            tumour_volume=float(patient.whole_px.sum()),
            group=groups[patient.patient_id],
            rule=", ".join(sorted(rules[patient.patient_id] - {""})),
            site=source.names.site(patient.patient_id),
        )
        for patient in cache.patients
    ]


def duplicate_pairs(cache: Cache) -> list[tuple[str, str]]:
    """Pairs of patients whose volumes are nearly the same; looked for once a cache folder."""
    path = cache.path / PAIRS
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["limit"] == SAME:
            return [(str(first), str(second)) for first, second in found["pairs"]]
    # All patients, and the modality that all runs share.
    pairs = [one.patients for one in duplicates(fingerprints(open_cache(cache.path)))]
    for first, second in pairs:
        tell(f"warning: {first} and {second} show the same volume")
    with suppress(OSError):  # a read-only cache is looked through again next time
        path.write_text(json.dumps({"limit": SAME, "pairs": pairs}), encoding="utf-8")
    return pairs


def fingerprints(cache: Cache) -> list[Fingerprint]:
    """Reduce the first modality of every patient to what :func:`duplicates` compares."""
    return [
        fingerprint(patient.patient_id, cache.native_image(patient), patient.slice_indices)
        for patient in progress(cache.patients, "duplicates", unit="patient")
    ]


def check_files(data: Data) -> None:
    """List the files: a wrong path, or too few patients, is a UserError before anything is made."""
    found = len(open_data_source(data).patients())
    if found < MIN_PATIENTS:
        needed = f"a split needs at least {MIN_PATIENTS}"
        raise UserError(f"{data.root} holds {found} patients; {needed}")

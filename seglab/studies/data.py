"""From a config's ``data`` and ``split`` blocks to an opened cache and a split."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from seglab.core.config import Data, RunConfig
from seglab.core.errors import UserError
from seglab.data.appearance import Figures, measure
from seglab.data.cache import Cache, CachedPatient, CacheSettings, Prepared, prepare
from seglab.data.identity import Identity, identify
from seglab.data.labels import UNKNOWN_PART
from seglab.data.sources import Source, open_data_source
from seglab.data.splits import MIN_PATIENTS, Split, SplitPatient, make_split
from seglab.studies.groups import person_groups
from seglab.studies.sealed_cache import seal

IDENTITY_SAMPLE = 12
"""Patients looked at, at every start, to judge the names of the modalities: half a second."""


@dataclass(frozen=True)
class StudyData:
    """Everything about the data that a run needs; see :mod:`seglab.studies.sealed_cache`."""

    cache: Cache
    split: Split
    prepared: Prepared
    identity: Identity
    """Whether the images are what their modalities are called."""
    missing_files: int
    """Files that the set should hold and does not: a half-finished download."""


def check_files(data: Data) -> None:
    """List the files, so that a wrong path is told before anything is made.

    Raises:
        UserError: the root is missing or holds too few patients, or two files of one name.
    """
    found = len(open_data_source(data).patients())
    if found < MIN_PATIENTS:
        raise UserError(
            f"{data.root} holds {found} patients; a split needs at least {MIN_PATIENTS}"
        )


def fill_cache(data: Data, source: Source | None = None) -> tuple[Cache, Prepared]:
    """Fill the cache, or find it filled; name who was left out of a new one.

    Raises:
        UserError: see :func:`seglab.data.cache.prepare`.
    """
    source = source or open_data_source(data)
    patients = source.patients()[: data.patients]
    settings = CacheSettings.from_config(data, source)
    cache, prepared = prepare(
        source,
        settings,
        data.cache,
        workers=data.workers,
        on_bad_file=data.on_bad_file,
        patients=patients,
    )
    if not prepared.reused:
        for name, reason in prepared.skipped:
            print(f"warning: {name} is left out: {reason}", file=sys.stderr)
    return cache, prepared


def judge_channel(cache: Cache, *, warn: bool = True) -> Identity:
    """Judge whether the images are what they are called; warn if not, before days of training.

    Of a sealed cache only those are looked at that may be read.
    """
    patients = list(cache.by_id.values())
    wanted = min(IDENTITY_SAMPLE, len(patients))
    places = np.linspace(0, len(patients) - 1, wanted).round().astype(int)
    identity = identify([_look(cache, patients[i]) for i in places], ("flair",))
    if warn and identity.wrong:
        print(f"warning: {identity.reason}", file=sys.stderr)
    return identity


def _look(cache: Cache, patient: CachedPatient) -> dict[str, Figures]:
    labels = UNKNOWN_PART * cache.native_mask(patient)
    images = cache.native_image(patient)[None]
    return measure(images, ("flair",), labels, mirror_axis=cache.mirror_axis)


def open_data(config: RunConfig, *, warn: bool = True) -> StudyData:
    """Open the cache of a run and divide its patients; those of the test cannot be read.

    Args:
        config: of the run.
        warn: of a half-finished download and of images that are no FLAIR; what starts a
            command has warned for its workers.

    Raises:
        UserError: bad files, too few patients, a split that leaks.
    """
    source = open_data_source(config.data)
    cache, prepared = fill_cache(config.data, source)
    missing = source.missing_files()
    if warn and missing:
        print(
            f"warning: {source.root} lacks {len(missing):,} files of its set, {missing[0]} the "
            "first: the rest is used (data check lists them)",
            file=sys.stderr,
        )
    split = make_split(split_patients(cache, source), config.split)
    sealed = seal(cache, split)
    identity = judge_channel(sealed, warn=warn)
    return StudyData(sealed, split, prepared, identity, len(missing))


class SharedData:
    """Opens the cache of each distinct ``data`` and ``split`` block once.

    Args:
        warn: as :func:`open_data` does, once of each root.
    """

    def __init__(self, *, warn: bool = True) -> None:
        self._warn = warn
        self._opened: dict[str, StudyData] = {}
        self._roots: set[tuple[object, ...]] = set()

    def of(self, config: RunConfig) -> StudyData:
        """Open the data of a run, or return them opened."""
        key = f"{config.data.model_dump_json()}{config.split.model_dump_json()}"
        if key not in self._opened:
            root = (config.data.root, config.data.source, *config.data.modalities)
            self._opened[key] = open_data(config, warn=self._warn and root not in self._roots)
            self._roots.add(root)
        return self._opened[key]


def split_patients(cache: Cache, source: Source) -> list[SplitPatient]:
    """Describe the cached patients as a split needs them; one person is one group."""
    groups = person_groups(cache, source)
    return [
        SplitPatient(
            patient_id=patient.patient_id,
            grade=patient.grade,
            tumour_volume=float(patient.tumour_px.sum()),
            group=groups[patient.patient_id],
        )
        for patient in cache.patients
    ]

"""From a config's ``data`` and ``split`` blocks to an opened cache and a split."""

from __future__ import annotations

from dataclasses import dataclass

from seglab.core.config import Data, RunConfig
from seglab.data.cache import Cache, CacheSettings, Prepared, prepare
from seglab.data.sources import Source, open_source
from seglab.data.splits import Split, SplitPatient, make_split


@dataclass(frozen=True)
class StudyData:
    """Everything about the data that a run needs."""

    cache: Cache
    split: Split
    prepared: Prepared


def open_cache(data: Data, source: Source | None = None) -> tuple[Cache, Prepared]:
    """Fill the cache, or find it filled.

    Raises:
        UserError: see :func:`seglab.data.cache.prepare`.
    """
    source = source or open_source(data.source, data.root, data.channel)
    patients = source.patients()[: data.patients]
    settings = CacheSettings.from_config(data, source)
    return prepare(
        source,
        settings,
        data.cache,
        workers=data.workers,
        on_bad_file=data.on_bad_file,
        patients=patients,
    )


def open_data(config: RunConfig) -> StudyData:
    """Open the cache of a run and divide its patients.

    Raises:
        UserError: bad files, too few patients, a split that leaks.
    """
    source = open_source(config.data.source, config.data.root, config.data.channel)
    cache, prepared = open_cache(config.data, source)
    return StudyData(cache, make_split(split_patients(cache, source), config.split), prepared)


def split_patients(cache: Cache, source: Source) -> list[SplitPatient]:
    """Describe the cached patients as a split needs them; one person is one group."""
    return [
        SplitPatient(
            patient_id=patient.patient_id,
            grade=patient.grade,
            tumour_volume=float(patient.tumour_px.sum()),
            group=source.names.person(patient.patient_id),
        )
        for patient in cache.patients
    ]

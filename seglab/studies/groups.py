"""Which patients of a cache are one person, so that no split can part them."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from seglab.core.documents import parse_json
from seglab.core.progress import progress
from seglab.data.cache import Cache
from seglab.data.duplicates import SAME, duplicates, fingerprint
from seglab.data.sources import Source

PAIRS = "duplicates.json"


def person_groups(cache: Cache, source: Source) -> dict[str, str]:
    """Name a group for every patient id.

    Two names are in one group when a table or the names tell that they are one person, or
    when their volumes are (nearly) the same, directly or through others.
    """
    people = source.names.people(patient.patient_id for patient in cache.patients)
    group = {patient_id: person.name for patient_id, person in people.items()}
    for first, second in duplicate_pairs(cache):
        kept, merged = sorted((group[first], group[second]))
        group = {name: kept if own == merged else own for name, own in group.items()}
    return group


def duplicate_pairs(cache: Cache) -> list[tuple[str, str]]:
    """Pairs of patients whose volumes are nearly the same; looked for once a cache."""
    path = cache.path / PAIRS
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = parse_json(path.read_text(encoding="utf-8"))
        if found["limit"] == SAME:
            pairs = [(str(first), str(second)) for first, second in found["pairs"]]
            if all(name in cache.by_id for pair in pairs for name in pair):
                return pairs
    prints = [
        fingerprint(
            patient.patient_id,
            cache.native_image(patient),
            patient.slice_indices,
        )
        for patient in progress(cache.patients, "duplicates", unit="patient")
    ]
    pairs = [one.patients for one in duplicates(prints)]
    for first, second in pairs:
        print(f"warning: {first} and {second} show the same volume", file=sys.stderr)
    _keep(path, pairs)
    return pairs


def _keep(path: Path, pairs: list[tuple[str, str]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):  # a read-only cache is looked through again next time
        temporary.write_text(json.dumps({"limit": SAME, "pairs": pairs}), encoding="utf-8")
        temporary.replace(path)

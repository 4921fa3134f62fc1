"""Who is who: which patients' names are one person's, by tables and by the names themselves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seglab.core.documents import read_rows
from seglab.core.errors import UserError

MAPPING = "name_mapping.csv"
_TCGA = re.compile(r"TCGA[-_](\w{2})[-_](\w{4})(?![0-9A-Za-z])", re.IGNORECASE)
_UNKNOWN = {"", "na", "n/a", "nan", "none"}
_VISITS = {
    r"(BraTS-[A-Z]+-\d{5})-\d{3}": "visit in the name (BraTS 2023)",
    r"(Brats1[789]_.+)_\d+": "visit in the name (BraTS 2017 to 2019)",
    r"(UPENN-GBM-\d{5})_\d{2}": "time point in the name (UPENN-GBM)",
    r"(UCSF-PDGM-\d{4})(?:_FU\d+d?)?": "follow-up in the name (UCSF-PDGM)",
    r"(sub-[A-Z0-9]+)_ses-[A-Z0-9]+": "session in the name (BIDS)",
    r"(.+?)[_-](?:ses|session|visit|time[_-]?point|tp|week|scan|fu)[_-]?[0-9A-Z]*\d.*":
        "session, visit or time point in the name",
}  # fmt: skip
"""Name of a patient, the person in brackets → the rule."""


class Person(NamedTuple):
    """Who is behind a patient's name, and what joined it with other names."""

    name: str
    rule: str
    """Empty where no other name of the set is the same person's."""


@dataclass(frozen=True)
class NameMapping:
    """Other names, persons, grades and sites of patients, from tables and from the names."""

    persons: Mapping[str, str] = field(default_factory=dict)
    """Every alias in ``name_mapping.csv`` → the person."""
    grades: Mapping[str, str] = field(default_factory=dict)
    listed: Mapping[str, str] = field(default_factory=dict)
    """Patient → person, of ``data.persons``."""
    sites: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, paths: Iterable[Path], listed: Path | None = None) -> NameMapping:
        """Read the first ``name_mapping.csv`` among ``paths``, and the table of ``data.persons``.

        Raises:
            UserError: one of them is not a table of its form.
        """
        found = next((path for path in paths if path.name == MAPPING), None)
        persons, grades = _read_mapping(found) if found else ({}, {})
        known, sites = _read_persons(listed) if listed else ({}, {})
        return cls(persons, grades, known, sites)

    def person(self, patient_id: str) -> str:
        """The person behind one name; names of a whole set are joined by :meth:`people`."""
        return next(self._keys(patient_id))[0]

    def people(self, patient_ids: Iterable[str]) -> dict[str, Person]:
        """Patient → person, where names that any rule joins, directly or not, are one person."""
        keys = {name: list(self._keys(name)) for name in patient_ids}
        root = {key: key for found in keys.values() for key, _ in found}
        for found in keys.values():
            first = _root(root, found[0][0])
            for key, _ in found[1:]:
                root[_root(root, key)] = first
        shared = Counter(key for found in keys.values() for key, _ in found)
        return {
            name: Person(
                _root(root, name),
                ", ".join(dict.fromkeys(rule for key, rule in found if shared[key] > 1)),
            )
            for name, found in keys.items()
        }

    def grade(self, patient_id: str) -> str | None:
        """``HGG``, ``LGG`` or None where the mapping does not tell."""
        return self.grades.get(patient_id)

    def _keys(self, patient_id: str) -> Iterator[tuple[str, str]]:
        """(person, rule) by each rule that knows the name; at last the name itself."""
        if patient_id in self.listed:
            yield self.listed[patient_id], "data.persons"
        if patient_id in self.persons:
            yield self.persons[patient_id], MAPPING
        if tcga := tcga_person(patient_id):
            yield tcga, "TCGA id in the name"
        for pattern, rule in _VISITS.items():
            if match := re.fullmatch(pattern, patient_id, re.IGNORECASE):
                yield match[1], rule
                break
        yield patient_id, "its own name"


def _root(root: dict[str, str], key: str) -> str:
    while root[key] != key:
        key = root[key]
    return key


def _read_mapping(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Alias → person, and → grade: the challenge's CSV, with columns that end in subject_ID."""
    persons: dict[str, str] = {}
    grades: dict[str, str] = {}
    for row in map(_clean, read_rows(path, "subject_ID")):
        aliases = [name for key, name in row.items() if key.endswith("subject_ID") and name]
        person = next(filter(None, map(tcga_person, aliases)), aliases[-1] if aliases else "")
        persons |= dict.fromkeys(aliases, person)
        if row.get("Grade"):
            grades |= dict.fromkeys(aliases, row["Grade"])
    return persons, grades


def _read_persons(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Patient → person, and → site: a CSV with the columns patient, person and perhaps site."""
    rows = list(map(_clean, read_rows(path, "person")))
    persons: dict[str, str] = {}
    for row in rows:
        patient, person = row.get("patient"), row.get("person")
        if not patient or not person:
            raise UserError(f"{path} has a row without patient or person")
        if persons.setdefault(patient, person) != person:
            raise UserError(f"{path} gives {patient} to {persons[patient]} and to {person}")
    return persons, {row["patient"]: row["site"] for row in rows if row.get("site")}


def tcga_person(name: str) -> str | None:
    """``TCGA-CS-5396`` from any name that holds it, such as ``TCGA_CS_5396_20010302``."""
    match = _TCGA.search(name)
    return f"TCGA-{match[1]}-{match[2]}".upper() if match else None


def shared_patients(
    ours: Iterable[str], theirs: Iterable[str], mapping: NameMapping
) -> list[tuple[str, str]]:
    """Pairs (our id, their id) of two sources that are the same person."""
    by_person: dict[str, list[str]] = {}
    for name in theirs:
        by_person.setdefault(mapping.person(name), []).append(name)
    return [(name, twin) for name in ours for twin in by_person.get(mapping.person(name), [])]


def _clean(row: Mapping[str, str]) -> dict[str, str]:
    """Strip the cells and blank those that say 'not known'."""
    cells = {key: value.strip() for key, value in row.items()}
    return {key: "" if cell.lower() in _UNKNOWN else cell for key, cell in cells.items()}

"""Who is who: one person can carry several names, within BraTS and across data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seglab.core.tables import read_rows

FILE_NAME = "name_mapping.csv"
_TCGA = re.compile(r"TCGA[-_](\w{2})[-_](\w{4})(?![0-9A-Za-z])", re.IGNORECASE)
_UNKNOWN = {"", "na", "n/a", "nan", "none"}


@dataclass(frozen=True)
class NameMapping:
    """Every alias of a patient in ``name_mapping.csv`` → the person and the grade."""

    persons: Mapping[str, str] = field(default_factory=dict)
    grades: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, paths: Iterable[Path]) -> NameMapping:
        """Read the first ``name_mapping.csv`` among ``paths``; empty where there is none."""
        found = next((path for path in paths if path.name == FILE_NAME), None)
        return cls.read(found) if found else cls()

    @classmethod
    def read(cls, path: Path) -> NameMapping:
        """Read the challenge's CSV: ``Grade`` and columns that end in ``subject_ID``.

        Raises:
            UserError: not a CSV of that form.
        """
        persons: dict[str, str] = {}
        grades: dict[str, str] = {}
        for row in map(_clean, read_rows(path, "subject_ID")):
            aliases = [name for key, name in row.items() if key.endswith("subject_ID") and name]
            if not aliases:
                continue
            person = next(filter(None, map(tcga_person, aliases)), aliases[-1])
            for alias in aliases:
                persons[alias] = person
                if row.get("Grade"):
                    grades[alias] = row["Grade"]
        return cls(persons, grades)

    def person(self, patient_id: str) -> str:
        """The person behind a patient's name: the TCGA id where known, else a stable name."""
        return self.persons.get(patient_id) or tcga_person(patient_id) or patient_id

    def grade(self, patient_id: str) -> str | None:
        """``HGG``, ``LGG`` or None where the mapping does not tell."""
        return self.grades.get(patient_id)


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

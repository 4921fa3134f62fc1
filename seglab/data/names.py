"""What names tell: of files the modality and the patient, of patients the person."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seglab.core.config import MODALITIES
from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.data.labels import canonical_names
from seglab.data.volume import Patient

WORDS = {
    "flair": "flair", "t2f": "flair", "t2flair": "flair",
    "t1": "t1", "t1n": "t1", "t1w": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce",
    "t2": "t2", "t2w": "t2",
}  # fmt: skip
"""Last word of a name (BraTS, UPENN-GBM, UCSF-PDGM, BIDS), or name in a dataset.json → modality."""
UNNAMED = ""  # modality of a file whose name tells none
MAPPING = "name_mapping.csv"
PHANTOM = "phantom.json"
"""At the root of a synthetic set: that it is one, its parameters, how its patients are called."""
SYNTHETIC = "synthetic data: phantoms, not patients"
"""Stands on pages, pictures and models that were made of such a set."""
DATASET = "dataset.json"
_SEGMENTATIONS = "seg|segm|segmentation|mask|label|labels|dseg"
_BREAK = re.compile(r"[_\-.\s]+")
_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_IMAGE = re.compile(rf"(?:(.+)[_\-.\s])?({'|'.join(WORDS)})", re.IGNORECASE)
_BIDS = re.compile(r"(sub-[^_]+(?:_ses-[^_]+)?)((?:_[^_]+)*)_(FLAIR|T1w|T2w)", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_PLAIN = re.compile(rf"([_\-.\s](tumou?r_)?({_SEGMENTATIONS}))?", re.IGNORECASE)
_SEGMENTATION = re.compile(_SEGMENTATIONS, re.IGNORECASE)
_OTHERS = "aseg|aparc.*|wmparc|gm|wm|csf|pred"
_OTHER_MASK = re.compile(rf"brain.*|skull.*|{_OTHERS}", re.IGNORECASE)
"""Words of masks that are no tumour's, and of our own predictions."""
_NO_SCAN = re.compile(rf"brain.*(mask|seg).*|{_SEGMENTATIONS}|{_OTHERS}", re.IGNORECASE)
_STRIPPED = re.compile(r"[_\-.\s](brain|skull[_\-]?strip(ped)?)$", re.IGNORECASE)
"""What programs that remove the skull append to the name of a scan."""
_TCGA = re.compile(r"TCGA[-_](\w{2})[-_](\w{4})(?![0-9A-Za-z])", re.IGNORECASE)
_SITE = re.compile(r"brats\d*_(2013|CBICA|TCIA\d*|TMC)_.+", re.IGNORECASE)
_UNKNOWN = {"", "na", "n/a", "nan", "none"}
_VISITS = {
    r"(BraTS-[A-Z]+-\d{5})-\d{3}": "visit in the name (BraTS 2023)",
    r"(Brats1[789]_.+)_\d+": "visit in the name (BraTS 2017 to 2019)",
    r"(UPENN-GBM-\d{5})_\d{2}": "time point in the name (UPENN-GBM)",
    r"(UCSF-PDGM-\d{4})(?:_FU\d+d?)?": "follow-up in the name (UCSF-PDGM)",
    r"(sub-[A-Z0-9]+)_ses-[A-Z0-9]+": "session in the name (BIDS)",
    # Behind a number only: glioma_scan_001 and case_tp53_001 name no person.
    r"(.+?)[_-](?:ses|session|visit|time[_-]?point|week|fu|(?<=\d.)(?:tp|scan))"
    r"(?:\d|[_-][0-9A-Z]*\d).*": "session, visit or time point in the name",
}  # fmt: skip
"""Name of a patient, the person in brackets → the rule."""


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that orders embedded numbers by value: ``a2`` before ``a10``."""
    parts = re.findall(r"\d+|\D+", name)
    # Not isdigit(): that is also true of superscripts, which are no number to int().
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def same_name(first: Path, second: Path, what: str) -> UserError:
    """Build the error for two files of one name."""
    return UserError(f"{first} and {second} are both {what}: remove one, or narrow data.root")


def nifti_stem(path: Path) -> str | None:
    """The name of a NIfTI file without its suffix; None of another file."""
    stem = _SUFFIX.sub("", path.name)
    return None if stem == path.name else stem


def is_plain_segmentation(path: Path, patient_id: str) -> bool:
    """Whether a name says no more than whose segmentation it is: ``P_seg``, ``labelsTr/P``."""
    return bool(_PLAIN.fullmatch((nifti_stem(path) or "").removeprefix(patient_id)))


def nifti_patients(paths: Iterable[Path], *, strict: bool = True) -> list[Patient]:
    """Tell by their names which NIfTI files are whose, in natural order of the patients.

    If ``strict``, two files of one modality and patient are a UserError, and files that tell no
    modality are passed over; otherwise these are patients of their own. A damaged
    ``dataset.json`` among ``paths`` is a UserError, and so is one that leads to no patient.
    """
    paths = tuple(paths)
    datasets = {path.parent: read_dataset(path) for path in paths if path.name == DATASET}
    cases: dict[tuple[str, Path], Patient] = {}
    labels: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if (stem := nifti_stem(path)) is None:
            continue
        listed, label_map = datasets.get(path.parent.parent, (None, None))
        images = list(_images(path, stem if strict else _STRIPPED.sub("", stem), listed))
        for patient_id, modality, channel in images:
            key = patient_id, Path() if strict else path.parent
            if not strict and key in cases and modality in cases[key].images:
                key = patient_id, path
            table = None if listed is None else path.parent.parent / DATASET
            new = Patient(patient_id, {}, label_map=label_map, table=table)
            case = cases.setdefault(key, new)
            if modality in case.images:
                other = case.images[modality][0]
                raise same_name(other, path, f"the {modality} of one patient")
            case.images[modality] = (path,)
            if channel is not None:
                case.channels[modality] = channel
        if not images:
            (labels if _is_segmentation(path, stem) else others).append(path)
    found = list(cases.values())
    _assign(labels, found)
    if not strict:
        found += _unnamed(others, {case.patient_id for case in found})
    elif not found and datasets:
        folder, (listed, _) = next(iter(datasets.items()))
        told = f"{folder / DATASET} names the channels {', '.join(listed.values()) or 'nothing'}"
        raise UserError(f"{told}; no image beside it is one of {', '.join(MODALITIES)}")
    return sorted(found, key=lambda case: natural_key(case.patient_id))


def read_dataset(path: Path) -> tuple[dict[int, str], dict[int, int] | None]:
    """Place → modality or another name, label → canonical one: dataset.json of nnU-Net or the MSD.

    A UserError where it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        named = dict(found.get("channel_names") or found.get("modality") or {})
        words = {int(place): _BREAK.sub("", str(name).lower()) for place, name in named.items()}
        labels = canonical_names(dict(found.get("labels") or {}))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the description of a data set: {error}") from error
    return {place: WORDS.get(word, word) for place, word in words.items()}, labels


def _images(
    path: Path, stem: str, listed: Mapping[int, str] | None
) -> Iterator[tuple[str, str, int | None]]:
    """(patient, modality, place along the last axis) of each image in a file."""
    if listed is not None and path.parent.name.startswith("images"):
        match = _CHANNEL.fullmatch(stem)
        if match and int(match[2]) in listed:
            stem, listed = match[1], {0: listed[int(match[2])]}
        for place, modality in listed.items():
            if modality in MODALITIES:
                yield stem, modality, place if len(listed) > 1 else None
    elif listed is not None and path.parent.name.startswith("labels"):
        return
    elif bids := _BIDS.fullmatch(stem):
        enhanced = "_ce-" in bids[2].lower() and bids[3].lower() == "t1w"
        yield bids[1], "t1ce" if enhanced else WORDS[bids[3].lower()], None
    elif match := _IMAGE.fullmatch(stem):
        yield match[1] or path.parent.name, WORDS[match[2].lower()], None


def _is_segmentation(path: Path, stem: str) -> bool:
    """By a whole word: neither a brain mask nor FreeSurfer's ``aseg`` is taken for a tumour."""
    words = _BREAK.split(stem)
    named = any(map(_SEGMENTATION.fullmatch, words)) and not any(map(_OTHER_MASK.fullmatch, words))
    return named or path.parent.name.startswith("labels")


def _assign(labels: Iterable[Path], cases: list[Patient]) -> None:
    """Give each segmentation to its patient: by name, else to the only one of its folder.

    BraTS 2020 ships ``BraTS20_Training_355`` with ``W39_1998.09.19_Segm.nii``.
    """
    by_id, by_folder = defaultdict(list), defaultdict(list)
    for case in cases:
        by_id[case.patient_id].append(case)
        for folder in {path.parent for path in case.files}:
            by_folder[folder].append(case)
    odd = defaultdict(list)
    for path in labels:
        owners = next(filter(None, map(by_id.get, _beginnings(nifti_stem(path) or ""))), [])
        near = [case for case in owners if case in by_folder[path.parent]]
        for owner in (near or owners)[:1]:
            owner.label_files += (path,)
        if not owners:
            odd[path.parent].append(path)
    for folder, paths in odd.items():
        here = by_folder[folder]
        if len(paths) == len(here) == 1 and not here[0].label_files:
            here[0].label_files = tuple(paths)
    for case in cases:
        plain = [path for path in case.label_files if is_plain_segmentation(path, case.patient_id)]
        case.label_files = tuple(plain) if len(plain) == 1 else case.label_files


def _beginnings(name: str) -> Iterator[str]:
    """The name, and what is left when words are taken off its end."""
    yield name
    yield from (name[: match.start()] for match in reversed(list(_BREAK.finditer(name))))


def _unnamed(others: Iterable[Path], known: set[str]) -> Iterator[Patient]:
    """Files of their own; not other masks, nor further scans of a patient that is known."""
    for path in others:
        stem = nifti_stem(path) or ""
        mask = any(map(_NO_SCAN.fullmatch, _BREAK.split(stem)))
        if not mask and known.isdisjoint(_beginnings(stem)):
            yield Patient(stem, {UNNAMED: (path,)})


class Person(NamedTuple):
    """Who is behind a patient's name, and what joined it with other names."""

    name: str
    rule: str  # empty where no other name of the set is the same person's


@dataclass(frozen=True)
class NameMapping:
    """Persons, grades and sites of patients, from tables and from the names."""

    persons: Mapping[str, str] = field(default_factory=dict)
    """Every alias in ``name_mapping.csv`` → the person."""
    grades: Mapping[str, str] = field(default_factory=dict)  # likewise → ``HGG`` or ``LGG``
    listed: Mapping[str, str] = field(default_factory=dict)  # patient → person, of ``data.persons``
    sites: Mapping[str, str] = field(default_factory=dict)
    """Alias or patient → site, by both tables."""

    @classmethod
    def find(cls, paths: Iterable[Path], listed: Path | None = None) -> NameMapping:
        """Read the first ``name_mapping.csv`` among ``paths``, and the table of ``data.persons``.

        Raises UserError where one of them is not a table of its form.
        """
        persons: dict[str, str] = {}
        grades: dict[str, str] = {}
        sites: dict[str, str] = {}
        for path in [path for path in paths if path.name == MAPPING][:1]:
            for row in map(_known, read_rows(path, "subject_ID")):
                aliases = [name for key, name in row.items() if key.endswith("subject_ID")]
                person = next(filter(None, map(tcga_person, aliases)), (aliases or [""])[-1])
                persons |= dict.fromkeys(aliases, person)
                grades |= dict.fromkeys(aliases, row["Grade"]) if "Grade" in row else {}
                # BraTS 2017 says TCIA where later names number it.
                sites |= dict.fromkeys(aliases, max(map(_brats_site, aliases), key=len, default=""))
        rows = list(_read_persons(listed)) if listed else []
        sites |= {row["patient"]: row["site"] for row in rows if "site" in row}
        return cls(persons, grades, {row["patient"]: row["person"] for row in rows}, sites)

    def site(self, patient_id: str) -> str:
        """Where a patient was scanned, by the tables, else by its name; empty where unknown."""
        tcga = tcga_person(patient_id)
        return self.sites.get(patient_id) or _brats_site(patient_id) or (tcga or "")[:7]

    def people(self, patient_ids: Iterable[str]) -> dict[str, Person]:
        """Patient → person, where names that any rule joins, directly or not, are one person."""
        keys = {name: list(self._keys(name)) for name in patient_ids}
        shared = Counter(key for found in keys.values() for key, _ in found)
        root = {key: key for key in shared}

        def find(key: str) -> str:
            return key if root[key] == key else find(root[key])

        for (first, _), *more in keys.values():
            for key, _ in more:
                root[find(key)] = find(first)
        people = {}
        for name, found in keys.items():
            rules = dict.fromkeys(rule for key, rule in found if shared[key] > 1)
            people[name] = Person(find(found[0][0]), ", ".join(rules))
        return people

    def _keys(self, patient_id: str) -> Iterator[tuple[str, str]]:
        """(person, rule) by ``data.persons``, else each rule that knows it, and the name itself."""
        if patient_id in self.listed:
            yield self.listed[patient_id], "data.persons"
            return
        if patient_id in self.persons:
            yield self.persons[patient_id], MAPPING
        if tcga := tcga_person(patient_id):
            yield tcga, "TCGA id in the name"
        for pattern, rule in _VISITS.items():
            if match := re.fullmatch(pattern, patient_id, re.IGNORECASE):
                yield match[1], rule
                break
        yield patient_id, "its own name"


def _read_persons(path: Path) -> Iterator[dict[str, str]]:
    persons: dict[str, str] = {}
    for row in map(_known, read_rows(path, "person")):
        if not {"patient", "person"} <= row.keys():
            raise UserError(f"{path} has a row without patient or person")
        patient, person = row["patient"], row["person"]
        if persons.setdefault(patient, person) != person:
            raise UserError(f"{path} gives {patient} to {persons[patient]} and to {person}")
        yield row


def _known(row: Mapping[str, str]) -> dict[str, str]:
    """The cells, stripped, without those that say 'not known'."""
    cells = {key: value.strip() for key, value in row.items()}
    return {key: cell for key, cell in cells.items() if cell.lower() not in _UNKNOWN}


def _brats_site(name: str) -> str:
    match = _SITE.fullmatch(name)
    return match[1].upper() if match else ""


def tcga_person(name: str) -> str | None:
    """``TCGA-CS-5396`` from any name that holds it, such as ``TCGA_CS_5396_20010302``."""
    match = _TCGA.search(name)
    return f"TCGA-{match[1]}-{match[2]}".upper() if match else None


def shared_patients(
    ours: Iterable[str], theirs: Iterable[str], mapping: NameMapping
) -> list[tuple[str, str]]:
    """Pairs (our id, their id) of two sources that are the same person."""
    ours, theirs = list(ours), list(theirs)
    people = mapping.people([*ours, *theirs])
    return [(one, two) for one in ours for two in theirs if people[one].name == people[two].name]

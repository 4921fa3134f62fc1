"""One table of file names: which modality a file holds, whose it is, whose segmentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seglab.core.errors import UserError
from seglab.data.files import same_name
from seglab.data.labels import canonical_names
from seglab.data.volume import Patient

WORDS = {
    "flair": "flair", "t2f": "flair", "t2flair": "flair",
    "t1": "t1", "t1n": "t1", "t1w": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce",
    "t2": "t2", "t2w": "t2",
}  # fmt: skip
"""Last word of a name (BraTS, UPENN-GBM, UCSF-PDGM, BIDS), or name in a dataset.json → modality."""
SEGMENTATIONS = ("seg", "segm", "segmentation", "mask", "label", "labels", "dseg")
UNNAMED = ""
"""Modality of a file whose name tells none."""
_BREAK = re.compile(r"[_\-.\s]+")
_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_IMAGE = re.compile(rf"(?:(.+)[_\-.\s])?({'|'.join(WORDS)})", re.IGNORECASE)
_BIDS = re.compile(r"(sub-[^_]+(?:_ses-[^_]+)?)((?:_[^_]+)*)_(FLAIR|T1w|T2w)", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_PLAIN = re.compile(rf"([_\-.\s](tumou?r_)?({'|'.join(SEGMENTATIONS)}))?", re.IGNORECASE)
_OTHER_MASK = re.compile(r"brain.*|aseg|aparc.*|wmparc|skull.*|gm|wm|csf|pred", re.IGNORECASE)
"""Words of masks that are no tumour's, and of our own predictions."""


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that orders embedded numbers by value: ``a2`` before ``a10``."""
    parts = re.findall(r"\d+|\D+", name)
    # Not isdigit(): that is also true of superscripts, which are no number to int().
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def nifti_stem(path: Path) -> str | None:
    """The name of a NIfTI file without its suffix; None of another file."""
    stem = _SUFFIX.sub("", path.name)
    return None if stem == path.name else stem


def is_plain_segmentation(path: Path, patient_id: str) -> bool:
    """Whether a name says no more than whose segmentation it is: ``P_seg``, ``labelsTr/P``."""
    return bool(_PLAIN.fullmatch((nifti_stem(path) or "").removeprefix(patient_id)))


@dataclass
class _Case:
    """Files of one patient while they are collected."""

    patient_id: str
    label_map: Mapping[int, int] | None = None
    images: dict[str, Path] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)

    def add(self, modality: str, path: Path, channel: int | None) -> None:
        if modality in self.images:
            raise same_name(self.images[modality], path, f"the {modality} volume of one patient")
        self.images[modality] = path
        if channel is not None:
            self.channels[modality] = channel

    def patient(self) -> Patient:
        plain = [path for path in self.labels if is_plain_segmentation(path, self.patient_id)]
        return Patient(
            self.patient_id,
            {modality: (path,) for modality, path in self.images.items()},
            tuple(plain if len(plain) == 1 else self.labels),
            channels=self.channels,
            label_map=self.label_map,
        )


@dataclass(frozen=True)
class _Dataset:
    """What a ``dataset.json`` (nnU-Net, Medical Segmentation Decathlon) tells."""

    modalities: Mapping[int, str]
    labels: Mapping[int, int] | None

    @classmethod
    def read(cls, path: Path) -> _Dataset:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            named = dict(found.get("channel_names") or found.get("modality") or {})
            words = {int(place): _BREAK.sub("", str(name).lower()) for place, name in named.items()}
            labels = canonical_names(dict(found.get("labels") or {}))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is not the description of a data set: {error}") from error
        return cls({at: WORDS[word] for at, word in words.items() if word in WORDS}, labels)


def nifti_patients(paths: Iterable[Path], *, strict: bool = True) -> list[Patient]:
    """Tell by their names which NIfTI files are whose, in natural order of the patients.

    Args:
        paths: files, with ``dataset.json`` where there is one.
        strict: two files of one modality and patient are an error, and files that tell no
            modality are passed over; otherwise these are patients of their own.

    Raises:
        UserError: two files that claim to be the same, or a damaged ``dataset.json``.
    """
    paths = tuple(paths)
    sets = {path.parent: _Dataset.read(path) for path in paths if path.name == "dataset.json"}
    cases: dict[tuple[str, Path], _Case] = {}
    labels: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if (stem := nifti_stem(path)) is None:
            continue
        dataset = sets.get(path.parent.parent)
        images = list(_images(path, stem, dataset))
        for patient_id, modality, channel in images:
            key = patient_id, Path() if strict else path.parent
            if not strict and key in cases and modality in cases[key].images:
                key = patient_id, path
            case = cases.setdefault(key, _Case(patient_id, dataset.labels if dataset else None))
            case.add(modality, path, channel)
        if not images:
            (labels if _is_segmentation(path, stem) else others).append(path)
    found = list(cases.values())
    _hand_out(labels, found)
    if not strict:
        found += _unnamed(others, {case.patient_id for case in found})
    return [case.patient() for case in sorted(found, key=lambda case: natural_key(case.patient_id))]


def _images(
    path: Path, stem: str, dataset: _Dataset | None
) -> Iterator[tuple[str, str, int | None]]:
    """(patient, modality, place along the last axis) of each image in a file."""
    if dataset and path.parent.name.startswith("images"):
        match, known = _CHANNEL.fullmatch(stem), dataset.modalities
        if match and int(match[2]) in known:
            yield match[1], known[int(match[2])], None
        else:
            for place, modality in known.items():
                yield stem, modality, place if len(known) > 1 else None
    elif dataset and path.parent.name.startswith("labels"):
        return
    elif bids := _BIDS.fullmatch(stem):
        enhanced = "_ce-" in bids[2].lower() and bids[3].lower() == "t1w"
        yield bids[1], "t1ce" if enhanced else WORDS[bids[3].lower()], None
    elif match := _IMAGE.fullmatch(stem):
        yield match[1] or path.parent.name, WORDS[match[2].lower()], None


def _is_segmentation(path: Path, stem: str) -> bool:
    """By a whole word: neither a brain mask nor FreeSurfer's ``aseg`` is taken for a tumour."""
    words = _BREAK.split(stem)
    named = any(word.lower() in SEGMENTATIONS for word in words)
    folder = path.parent.name.startswith("labels")
    return folder or (named and not any(map(_OTHER_MASK.fullmatch, words)))


def _hand_out(labels: Iterable[Path], cases: list[_Case]) -> None:
    """Give each segmentation to its patient: by name, else to the only one of its folder.

    BraTS 2020 ships ``BraTS20_Training_355`` with ``W39_1998.09.19_Segm.nii``.
    """
    by_id: dict[str, list[_Case]] = {}
    by_folder: dict[Path, list[_Case]] = {}
    for case in cases:
        by_id.setdefault(case.patient_id, []).append(case)
        for folder in {path.parent for path in case.images.values()}:
            by_folder.setdefault(folder, []).append(case)
    lone: dict[Path, list[Path]] = {}
    for path in labels:
        named = (by_id.get(name) for name in _beginnings(nifti_stem(path) or ""))
        owners = next(filter(None, named), None)
        if owners is None:
            lone.setdefault(path.parent, []).append(path)
        else:
            near = [case for case in owners if case in by_folder.get(path.parent, [])]
            (near or owners)[0].labels.append(path)
    for folder, odd in lone.items():
        here = by_folder.get(folder, [])
        if len(odd) == 1 and len(here) == 1 and not here[0].labels:
            here[0].labels += odd


def _beginnings(name: str) -> Iterator[str]:
    """The name, and what is left when words are taken off its end."""
    yield name
    yield from (name[: match.start()] for match in reversed(list(_BREAK.finditer(name))))


def _unnamed(others: Iterable[Path], known: set[str]) -> Iterator[_Case]:
    """Files of their own; not other masks, nor further scans of a patient that is known."""
    for path in others:
        stem = nifti_stem(path) or ""
        mask = any(map(_OTHER_MASK.fullmatch, _BREAK.split(stem)))
        if not mask and known.isdisjoint(_beginnings(stem)):
            yield _Case(stem, images={UNNAMED: path})

"""Which patients train, validate and test: by person, stratified, and the same every time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from seglab.core.config import RunConfig
from seglab.core.config import Split as SplitConfig
from seglab.core.documents import digest
from seglab.core.errors import UserError

PARTS = ("train", "val", "test")
MIN_PATIENTS = 3


@dataclass(frozen=True)
class SplitPatient:
    """What a split needs to know of a patient."""

    patient_id: str
    grade: str | None
    tumour_volume: float  # in any unit, the same for all: only its order counts
    group: str  # patients of one group (one person, or near-duplicates) stay in one part
    rule: str = ""  # what joined the patient with the others of its group
    site: str = ""  # where it was scanned; empty where unknown


class Joined(NamedTuple):
    """Patients of one person, and what told so."""

    patients: tuple[str, ...]
    rule: str


@dataclass(frozen=True)
class Split:
    """Patient ids of the three parts, each sorted; no id is in two of them."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    joined: tuple[Joined, ...] = ()  # persons of several patients' names
    redrawn: str = ""  # how the validation part was drawn anew; empty where it was not
    sites: tuple[str, ...] = ()  # that the fold leaves out, if by site

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that change with any patient of any part."""
        return digest(self.to_dict())[:12]

    def to_dict(self) -> dict[str, list[str]]:
        """The ids of each part."""
        return {part: list(getattr(self, part)) for part in PARTS}

    def to_json(self) -> dict[str, Any]:
        """As ``split.json`` holds it: with its hash and what joined patients to one person."""
        told: dict[str, Any] = {"hash": self.hash, **self.to_dict()}
        told |= {"joined": [one._asdict() for one in self.joined]}
        told |= {"redrawn": self.redrawn} if self.redrawn else {}
        return told | ({"sites": self.sites} if self.sites else {})


Group = tuple[SplitPatient, ...]


def make_split(patients: Sequence[SplitPatient], config: SplitConfig) -> Split:
    """Divide patients, in any order, into training, validation and test.

    Counts are the shares of the patients, rounded by largest remainders, and at least one in
    each part whose share is not 0; groups of several patients may miss them by less than a
    group. Each part gets its share of every stratum: grade × third of the tumour volume. With
    folds, all but the test part is cut into ``folds`` parts, of which number ``fold`` validates;
    by site, no two of them share a site, so that sites joined by a person are in one.
    With ``redraw``, as many patients as validated are drawn from the training part instead.

    Raises UserError for fewer than three patients, fewer groups than parts or folds, fewer sites
    than folds, or an unknown site.
    """
    number = len(patients)
    if number < MIN_PATIENTS:
        raise UserError(f"a split needs at least {MIN_PATIENTS} patients; there are {number}")
    by_group = sorted(patients, key=lambda patient: (patient.group, patient.patient_id))
    found = itertools.groupby(by_group, key=lambda patient: patient.group)
    groups: list[Group] = [tuple(members) for _, members in found]
    strata = _strata(groups)
    counts = _counts(number, config.fractions)
    parts = sum(count > 0 for count in counts)
    if len(groups) < parts:
        needed = f"a split into {parts} parts needs at least {parts} persons"
        raise UserError(f"{needed}; these {number} patients are {len(groups)}")
    order = _evenly_mixed(strata, np.random.default_rng([config.seed, 0]))
    test, order = _take(order, counts[2], leave=2)
    redrawn = ""
    if config.folds is None:
        val, train = _take(order, counts[1], leave=1)
    else:
        dealt = (
            _by_site(order, config.folds) if config.by == "site" else _fold(order, strata, config)
        )
        val = dealt.pop(config.fold)
        train = [group for fold in dealt for group in fold]
    if config.redraw:
        former, stream = val, np.random.default_rng([config.seed, 2, config.redraw])
        left = {id(group) for group in train}
        rest = [[group for group in stratum if id(group) in left] for stratum in strata]
        val, train = _take(_evenly_mixed(rest, stream), counts[1], leave=0)
        train += former
        redrawn = (
            f"fresh patients: {len(_ids(val))} patients of the training part now validate; the "
            f"{len(_ids(former))} who validated the search now train (split.redraw={config.redraw})"
        )
    joined = tuple(
        Joined(_ids([group]), ", ".join(dict.fromkeys(one.rule for one in group if one.rule)))
        for group in groups
        if len(group) > 1
    )
    sites = {one.site for group in val for one in group} if config.by == "site" else ()
    return Split(_ids(train), _ids(val), _ids(test), joined, redrawn, tuple(sorted(sites)))


def training_patients(split: Split, config: RunConfig) -> tuple[str, ...]:
    """Patients that a run trains on: the training part, or ``train.patients`` of it.

    They are drawn by the run's seed; of one seed, fewer are among more. Raises UserError for more
    than there are.
    """
    wanted = config.train.patients or len(split.train)
    if wanted > len(split.train):
        raise UserError(f"train.patients: {wanted}; the training part has {len(split.train)}")
    order = np.random.default_rng([config.seed, 3]).permutation(len(split.train))
    return tuple(sorted(split.train[k] for k in order[:wanted]))


def _strata(groups: Sequence[Group]) -> list[list[Group]]:
    by_volume = sorted(groups, key=lambda g: sum(one.tumour_volume for one in g) / len(g))
    strata: dict[tuple[str, int], list[Group]] = {}
    for rank, group in enumerate(by_volume):
        grade = next((patient.grade for patient in group if patient.grade), "")
        strata.setdefault((grade, 3 * rank // len(groups)), []).append(group)
    return [strata[key] for key in sorted(strata)]


def _counts(patients: int, fractions: tuple[float, float, float]) -> list[int]:
    """Round by largest remainders, then give every part with a share at least one."""
    quotas = [patients * fraction for fraction in fractions]
    # 1e-9: 0.15 · 20 is a little below 3 in binary.
    counts = [int(quota + 1e-9) for quota in quotas]
    by_remainder = sorted(range(3), key=lambda part: counts[part] - quotas[part])
    for part in by_remainder[: patients - sum(counts)]:
        counts[part] += 1
    for part, fraction in enumerate(fractions):
        if fraction > 0 and counts[part] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[part] = 1
    return counts


def _evenly_mixed(strata: Iterable[list[Group]], stream: np.random.Generator) -> list[Group]:
    """Shuffle so that any run of the result holds its share of every stratum.

    Systematic sampling: each, shuffled, is spread evenly over [0, 1) from a random start.
    """
    placed: list[tuple[float, int, Group]] = []
    for number, stratum in enumerate(strata):
        start = stream.random()
        for rank, index in enumerate(stream.permutation(len(stratum))):
            placed.append(((rank + start) / len(stratum), number, stratum[index]))
    return [group for _, _, group in sorted(placed, key=lambda item: item[:2])]


def _take(order: list[Group], wanted: int, leave: int) -> tuple[list[Group], list[Group]]:
    """Take groups from the front until ``wanted`` patients; leave at least so many groups."""
    if wanted == 0:
        return [], order
    taken: list[Group] = []
    rest: list[Group] = []
    for group in order:
        fits = sum(map(len, taken)) + len(group) <= wanted and len(order) - len(taken) > leave
        (taken if fits else rest).append(group)
    if not taken:  # every group is larger than the part: the smallest misses by least
        smallest = min(order, key=len)
        return [smallest], [group for group in order if group is not smallest]
    return taken, rest


def _fold(
    rest: Sequence[Group], strata: Iterable[list[Group]], config: SplitConfig
) -> list[list[Group]]:
    """Deal the groups stratum by stratum to the emptiest fold."""
    folds = config.folds or 1
    if len(rest) < folds:
        needed = f"{folds} folds need at least {folds} persons outside the test part"
        raise UserError(f"split.folds: {needed}; there are {len(rest)}")
    stream = np.random.default_rng([config.seed, 1])
    remaining = set(rest)
    dealt: list[list[Group]] = [[] for _ in range(folds)]
    for stratum in strata:
        for index in stream.permutation(len(stratum)):
            if stratum[index] in remaining:
                _emptiest(dealt).append(stratum[index])
    return dealt


def _by_site(rest: Sequence[Group], folds: int) -> list[list[Group]]:
    """Deal whole sites, the largest first, to the emptiest fold; those of one person together."""
    if unknown := sorted(one.patient_id for group in rest for one in group if not one.site):
        told = f"the site of {len(unknown)} patients is unknown, {unknown[0]} the first"
        where = "a column site in data.persons tells it, or name_mapping.csv of BraTS"
        raise UserError(f"split.by=site: {told}; {where}")
    at: dict[frozenset[str], list[Group]] = {}  # connected components: sites joined by a person
    for group in rest:
        sites = frozenset(one.site for one in group)
        joined = [others for others in at if others & sites]
        before = [one for others in joined for one in at.pop(others)]
        at[sites.union(*joined)] = [*before, group]
    if len(at) < folds:
        names = ", ".join(sorted("+".join(sorted(sites)) for sites in at))
        told = f"{folds} folds need as many sites outside the test part; there are {len(at)}"
        raise UserError(f"split.by=site: {told} ({names})")
    dealt: list[list[Group]] = [[] for _ in range(folds)]
    for sites in sorted(at, key=lambda sites: (-len(_ids(at[sites])), sorted(sites))):
        _emptiest(dealt).extend(at[sites])
    return dealt


def _emptiest(folds: Iterable[list[Group]]) -> list[Group]:
    return min(folds, key=lambda fold: sum(map(len, fold)))


def _ids(groups: Iterable[Group]) -> tuple[str, ...]:
    return tuple(sorted(patient.patient_id for group in groups for patient in group))

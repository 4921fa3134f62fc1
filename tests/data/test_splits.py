from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seglab.core.config import Split as SplitConfig
from seglab.core.errors import UserError
from seglab.data.splits import Joined, Split, SplitPatient, make_split


def split(patients: list[SplitPatient], **keys: Any) -> Split:
    return make_split(patients, SplitConfig(**keys))


def sizes(one: Split) -> list[int]:
    return [len(part) for part in (one.train, one.val, one.test)]


def patient(number: int, group: str | None = None, volume: float = 1.0) -> SplitPatient:
    name = f"P{number:03d}"
    return SplitPatient(name, "HGG" if number % 4 else "LGG", volume, group or name)


def cohort(count: int, seed: int = 0) -> list[SplitPatient]:
    volumes = np.random.default_rng(seed).lognormal(size=count)
    return [patient(i, volume=float(v)) for i, v in enumerate(volumes)]


@st.composite
def cohorts(draw: st.DrawFn) -> list[SplitPatient]:
    """At least three persons, some with several scans."""
    persons = draw(st.lists(st.integers(1, 3), min_size=3, max_size=60))
    owners = [person for person, scans in enumerate(persons) for _ in range(scans)]
    volume = st.floats(0, 1e6)
    grade = st.sampled_from(["HGG", "LGG", None])
    return [
        SplitPatient(f"P{number:03d}", draw(grade), draw(volume), f"person {owner}")
        for number, owner in enumerate(owners)
    ]


seeds = st.integers(0, 1000)


@given(cohorts(), seeds)
def test_a_split_is_a_partition_by_person(patients: list[SplitPatient], seed: int) -> None:
    found = split(patients, seed=seed)
    everyone = [*found.train, *found.val, *found.test]
    assert sorted(everyone) == sorted(p.patient_id for p in patients)
    group = {p.patient_id: p.group for p in patients}
    parts = [{group[name] for name in part} for part in (found.train, found.val, found.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


@given(cohorts(), seeds, st.randoms(use_true_random=False))
def test_a_split_depends_on_the_seed_and_not_on_the_order(
    patients: list[SplitPatient], seed: int, shuffler: random.Random
) -> None:
    shuffled = shuffler.sample(patients, len(patients))
    assert split(patients, seed=seed) == split(shuffled, seed=seed)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, [1, 1, 1]), (5, [3, 1, 1]), (10, [7, 2, 1]), (20, [14, 3, 3]), (369, [258, 56, 55])],
)
def test_counts_worked_by_hand(count: int, expected: list[int]) -> None:
    assert sizes(split(cohort(count))) == expected


@given(st.integers(10, 80), seeds, st.integers(2, 6))
def test_folds_cut_up_all_but_the_test_part_which_stays(count: int, seed: int, folds: int) -> None:
    patients = cohort(count)
    plain = split(patients, seed=seed)
    each = [split(patients, seed=seed, folds=folds, fold=fold) for fold in range(folds)]
    assert {one.test for one in each} == {plain.test}
    validated = [name for one in each for name in one.val]
    assert sorted(validated) == sorted((*plain.train, *plain.val))
    lengths = [len(one.val) for one in each]
    assert max(lengths) - min(lengths) <= 1
    for one in each:
        assert set(one.train) == set(validated) - set(one.val)


@given(cohorts(), seeds, st.integers(1, 3))
def test_redrawn_patients_had_no_part_in_validation(
    patients: list[SplitPatient], seed: int, redraw: int
) -> None:
    first = split(patients, seed=seed)
    again = split(patients, seed=seed, redraw=redraw)
    assert again.test == first.test
    assert set(again.val) <= set(first.train)
    assert {*again.train, *again.val} == {*first.train, *first.val}
    owner = {p.patient_id: p.group for p in patients}
    assert not {owner[name] for name in again.val} & {owner[name] for name in again.train}
    assert f"{len(again.val)} patients of the training part now validate" in again.redrawn


def test_as_many_validate_after_a_redraw_where_there_are_enough() -> None:
    assert sizes(split(cohort(40), redraw=1)) == sizes(split(cohort(40))) == [28, 6, 6]
    few = split(cohort(20), redraw=1, fractions=(0.2, 0.7, 0.1))
    assert sizes(few) == [14, 4, 2]
    assert few.to_json()["redrawn"] == few.redrawn


@pytest.mark.parametrize("folds", [None, 5])
def test_parts_are_more_alike_than_by_chance(folds: int | None) -> None:
    patients, size = cohort(60, seed=3), 9
    ranks = stats.rankdata([p.tumour_volume for p in patients]) / 60
    rank = {p.patient_id: value for p, value in zip(patients, ranks, strict=True)}
    low = {p.patient_id for p in patients if p.grade == "LGG"}
    splits = [split(patients, seed=seed, folds=folds) for seed in range(200)]
    val, test = (
        [np.mean([rank[name] for name in getattr(one, part)]) for one in splits]
        for part in ("val", "test")
    )
    by_chance = np.std(ranks) / np.sqrt(size) * np.sqrt(1 - size / 60)
    assert np.std(test) < 0.7 * by_chance
    assert np.std(val) < 0.8 * by_chance
    assert np.mean(test) == pytest.approx(0.5, abs=0.03)
    grades = [len(low & set(one.test)) for one in splits]
    assert np.std(grades) < 0.9 * stats.hypergeom(60, 15, size).std()


def test_groups_larger_than_a_part_stay_whole_and_a_part_without_share_is_empty() -> None:
    assert sizes(split([patient(i, group=f"person {i // 3}") for i in range(9)])) == [3, 3, 3]
    assert sizes(split(cohort(10), fractions=(0.8, 0.2, 0))) == [8, 2, 0]


@pytest.mark.parametrize(
    ("patients", "folds", "said"),
    [
        (cohort(2), None, "at least 3 patients; there are 2"),
        ([patient(i, group="one" if i < 4 else "two") for i in range(6)], None, "3 persons"),
        (cohort(8), 10, r"split\.folds: 10"),
    ],
)
def test_too_few_persons_are_refused(
    patients: list[SplitPatient], folds: int | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        split(patients, folds=folds)


def test_a_split_tells_its_hash_and_who_is_one_person() -> None:
    found = split([*cohort(12), SplitPatient("again", None, 1.0, "P003", "visits")], seed=4)
    assert found.joined == (Joined(("P003", "again"), "visits"),)
    joined = [{"patients": ["P003", "again"], "rule": "visits"}]
    read = json.loads(json.dumps(found.to_json()))
    assert read == {"hash": found.hash, **found.to_dict(), "joined": joined}


def at_sites(*counts: int) -> list[SplitPatient]:
    """So many patients a site."""
    sites = [f"S{site}" for site, count in enumerate(counts) for _ in range(count)]
    everyone = cohort(len(sites))
    return [dataclasses.replace(one, site=site) for one, site in zip(everyone, sites, strict=True)]


BY_SITE = {"by": "site", "fractions": (0.9, 0.1, 0)}


@given(st.lists(st.integers(1, 12), min_size=3, max_size=8), st.integers(2, 3), seeds)
def test_folds_by_site_leave_whole_sites_out(counts: list[int], folds: int, seed: int) -> None:
    patients = at_sites(*counts)
    site = {one.patient_id: one.site for one in patients}
    validated: list[str] = []
    for fold in range(folds):
        left = split(patients, seed=seed, folds=folds, fold=fold, **BY_SITE)
        assert {site[name] for name in left.val}.isdisjoint(site[name] for name in left.train)
        assert left.sites == tuple(sorted({site[name] for name in left.val}))
        validated += left.val
    assert sorted(validated) == sorted(site)


def test_folds_by_site_keep_the_test_part_and_leave_one_site_out() -> None:
    patients = at_sites(20, 12, 4)
    left = [split(patients, folds=3, by="site", fold=k) for k in range(3)]
    assert {one.test for one in left} == {split(patients, folds=3).test}
    assert [one.sites for one in left] == [("S0",), ("S1",), ("S2",)]
    assert left[1].to_json()["sites"] == ("S1",)


def test_the_sites_of_one_person_are_left_out_together() -> None:
    patients = at_sites(4, 4, 4, 4)
    for number, other in ((0, 4), (5, 12)):  # S0 with S1, and S1 with S3
        patients[other] = dataclasses.replace(patients[other], group=patients[number].group)
    splits = [split(patients, folds=2, fold=k, **BY_SITE) for k in range(2)]
    assert [one.sites for one in splits] == [("S0", "S1", "S3"), ("S2",)]
    assert splits[0].train == splits[1].val == ("P008", "P009", "P010", "P011")
    with pytest.raises(UserError, match=r"3 folds need as many sites.*are 2 \(S0\+S1\+S3, S2\)"):
        split(patients, folds=3, **BY_SITE)


def test_folds_by_site_need_sites() -> None:
    unknown = [*at_sites(6, 6), patient(90)]
    with pytest.raises(UserError, match=r"site of 1 patients is unknown, P090 .*data\.persons"):
        split(unknown, folds=2, **BY_SITE)
    with pytest.raises(ValueError, match="by: site makes folds: set folds"):
        SplitConfig(by="site")

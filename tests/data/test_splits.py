from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seglab.core.config import Split as SplitConfig
from seglab.core.errors import UserError
from seglab.data.splits import (
    Joined,
    SplitPatient,
    make_split,
)


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
def test_a_split_is_a_partition_in_which_no_person_is_torn(
    patients: list[SplitPatient], seed: int
) -> None:
    split = make_split(patients, SplitConfig(seed=seed))
    everyone = [*split.train, *split.val, *split.test]
    assert sorted(everyone) == sorted(p.patient_id for p in patients)
    assert split.train
    assert split.val
    assert split.test
    group = {p.patient_id: p.group for p in patients}
    parts = [{group[name] for name in part} for part in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))


@given(cohorts(), seeds, st.randoms(use_true_random=False))
def test_a_split_depends_on_the_seed_and_not_on_the_order(
    patients: list[SplitPatient], seed: int, shuffler: random.Random
) -> None:
    shuffled = patients.copy()
    shuffler.shuffle(shuffled)
    config = SplitConfig(seed=seed)
    assert make_split(patients, config) == make_split(shuffled, config)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, (1, 1, 1)), (5, (3, 1, 1)), (10, (7, 2, 1)), (20, (14, 3, 3)), (369, (258, 56, 55))],
)
def test_counts_worked_by_hand(count: int, expected: tuple[int, int, int]) -> None:
    split = make_split(cohort(count), SplitConfig())
    assert (len(split.train), len(split.val), len(split.test)) == expected


@given(st.integers(10, 80), seeds, st.integers(2, 6))
def test_folds_cut_up_all_but_the_test_part_which_stays(count: int, seed: int, folds: int) -> None:
    patients = cohort(count)
    plain = make_split(patients, SplitConfig(seed=seed))
    splits = [
        make_split(patients, SplitConfig(seed=seed, folds=folds, fold=fold))
        for fold in range(folds)
    ]
    assert {split.test for split in splits} == {plain.test}
    validated = [name for split in splits for name in split.val]
    assert sorted(validated) == sorted((*plain.train, *plain.val))
    sizes = [len(split.val) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert set(split.train) == set(validated) - set(split.val)


@given(cohorts(), seeds, st.integers(1, 3))
def test_redrawn_validation_patients_had_no_part_in_the_former_validation(
    patients: list[SplitPatient], seed: int, redraw: int
) -> None:
    first = make_split(patients, SplitConfig(seed=seed))
    split = make_split(patients, SplitConfig(seed=seed, redraw=redraw))
    assert split.test == first.test
    assert set(split.val) <= set(first.train)
    assert set(first.val) <= set(split.train)
    assert {*split.train, *split.val} == {*first.train, *first.val}
    owner = {p.patient_id: p.group for p in patients}
    assert not {owner[name] for name in split.val} & {owner[name] for name in split.train}
    assert f"{len(split.val)} patients of the training part now validate" in split.redrawn


def test_as_many_validate_after_a_redraw_where_there_are_enough() -> None:
    common = make_split(cohort(40), SplitConfig(redraw=1))
    assert len(common.val) == len(make_split(cohort(40), SplitConfig()).val) == 6
    few = make_split(cohort(20), SplitConfig(redraw=1, fractions=(0.2, 0.7, 0.1)))
    assert (len(few.val), len(few.train)) == (4, 14)
    assert few.to_json()["redrawn"] == few.redrawn


@pytest.mark.parametrize("folds", [None, 5])
def test_parts_are_more_alike_than_by_chance(folds: int | None) -> None:
    patients = cohort(60, seed=3)
    rank = dict(
        zip(
            (p.patient_id for p in patients),
            stats.rankdata([p.tumour_volume for p in patients]) / 60,
            strict=True,
        )
    )
    means = {"val": [], "test": []}  # type: ignore[var-annotated]
    grades = []
    for seed in range(200):
        split = make_split(patients, SplitConfig(seed=seed, folds=folds))
        for part, values in means.items():
            values.append(np.mean([rank[name] for name in getattr(split, part)]))
        grades.append(sum(p.grade == "LGG" for p in patients if p.patient_id in split.test))
    size = 9
    by_chance = np.std(list(rank.values())) / np.sqrt(size) * np.sqrt(1 - size / 60)
    assert np.std(means["test"]) < 0.7 * by_chance
    assert np.std(means["val"]) < 0.8 * by_chance
    assert np.mean(means["test"]) == pytest.approx(0.5, abs=0.03)
    assert np.std(grades) < 0.9 * stats.hypergeom(60, 15, size).std()


def test_groups_larger_than_a_part_stay_whole_and_a_part_without_share_is_empty() -> None:
    scans = [patient(i, group=f"person {i // 3}") for i in range(9)]
    split = make_split(scans, SplitConfig())
    assert [len(part) for part in (split.train, split.val, split.test)] == [3, 3, 3]
    split = make_split(cohort(10), SplitConfig(fractions=(0.8, 0.2, 0)))
    assert [len(part) for part in (split.train, split.val, split.test)] == [8, 2, 0]


@pytest.mark.parametrize(
    ("patients", "folds", "said"),
    [
        (cohort(2), None, "at least 3 patients; there are 2"),
        ([patient(i, group="one" if i < 4 else "two") for i in range(6)], None, "3 persons"),
        (cohort(8), 10, r"split\.folds: 10"),
    ],
)
def test_too_few_patients_persons_or_folds_are_refused(
    patients: list[SplitPatient], folds: int | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        make_split(patients, SplitConfig(folds=folds))


def test_a_split_tells_its_hash_and_who_is_one_person() -> None:
    scans = [*cohort(12), SplitPatient("again", None, 1.0, "P003", "visits")]
    split = make_split(scans, SplitConfig(seed=4))
    assert split.joined == (Joined(("P003", "again"), "visits"),)
    read = json.loads(json.dumps(split.to_json()))
    joined = [{"patients": ["P003", "again"], "rule": "visits"}]
    assert read == {"hash": split.hash, **split.to_dict(), "joined": joined}


def at_sites(*sizes: int) -> list[SplitPatient]:
    """So many patients a site, mixed."""
    sites = [f"S{site}" for site, size in enumerate(sizes) for _ in range(size)]
    everyone = cohort(len(sites))
    return [dataclasses.replace(one, site=site) for one, site in zip(everyone, sites, strict=True)]


@given(st.lists(st.integers(1, 12), min_size=3, max_size=8), st.integers(2, 3), seeds)
def test_folds_by_site_leave_whole_sites_out(sizes: list[int], folds: int, seed: int) -> None:
    patients = at_sites(*sizes)
    site = {one.patient_id: one.site for one in patients}
    config = {"seed": seed, "folds": folds, "fractions": (0.9, 0.1, 0)}
    validated: list[str] = []
    for fold in range(folds):
        split = make_split(patients, SplitConfig(**config, by="site", fold=fold))
        assert {site[name] for name in split.val}.isdisjoint(site[name] for name in split.train)
        assert split.sites == tuple(sorted({site[name] for name in split.val}))
        validated += split.val
    assert sorted(validated) == sorted(site)


def test_folds_by_site_keep_the_test_part_and_leave_one_site_out() -> None:
    patients = at_sites(20, 12, 4)
    plain = make_split(patients, SplitConfig(folds=3))
    left = [make_split(patients, SplitConfig(folds=3, by="site", fold=k)) for k in range(3)]
    assert {split.test for split in left} == {plain.test}
    assert [split.sites for split in left] == [("S0",), ("S1",), ("S2",)]
    assert left[1].to_json()["sites"] == ("S1",)


def test_the_sites_of_one_person_are_left_out_together() -> None:
    patients = at_sites(4, 4, 4, 4)
    for number, other in ((0, 4), (5, 12)):  # S0 with S1, and S1 with S3
        patients[other] = dataclasses.replace(patients[other], group=patients[number].group)
    fractions = {"fractions": (0.9, 0.1, 0), "by": "site"}
    splits = [make_split(patients, SplitConfig(folds=2, fold=k, **fractions)) for k in range(2)]
    assert [split.sites for split in splits] == [("S0", "S1", "S3"), ("S2",)]
    assert splits[0].train == splits[1].val == ("P008", "P009", "P010", "P011")
    with pytest.raises(UserError, match=r"there are 2 \(S0\+S1\+S3, S2\)"):
        make_split(patients, SplitConfig(folds=3, **fractions))
    patients[4] = dataclasses.replace(patients[4], site="")
    with pytest.raises(UserError, match="site of 1 patients is unknown, P004"):
        make_split(patients, SplitConfig(folds=2, **fractions))


def test_folds_by_site_need_sites() -> None:
    unknown = [*at_sites(6, 6), patient(90)]
    by_site = SplitConfig(folds=2, by="site", fractions=(0.9, 0.1, 0))
    with pytest.raises(UserError, match=r"site of 1 patients is unknown, P090 .*data\.persons"):
        make_split(unknown, by_site)
    with pytest.raises(UserError, match=r"2 folds need as many sites .* there are 1 \(S0\)"):
        make_split(at_sites(9), by_site)
    with pytest.raises(ValueError, match="by: site makes folds: set folds"):
        SplitConfig(by="site")

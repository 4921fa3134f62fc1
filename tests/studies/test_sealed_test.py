"""The sealed test: who gets to its patients, what is written before, and for whom it opens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.cache import Cache, CacheSettings, open_cache
from seglab.data.identity import identify
from seglab.data.loader import gather
from seglab.data.open import StudyData, open_data
from seglab.data.phantom.write import write_phantom
from seglab.data.sealed import SealBroken, SealedCache
from seglab.data.sources.base import open_source
from seglab.data.splits import Split
from seglab.studies import promotion
from seglab.studies.experiment import Plan, train_one
from seglab.studies.promotion import promote
from seglab.studies.report.outcomes import not_confirmatory
from seglab.studies.sealed_test import check_sealed, open_test, warn_of_seen
from seglab.tracking.openings import openings
from seglab.tracking.run import RunLog, start_run
from seglab.tracking.store import Store
from tests.data.memory import prepare

Patch = pytest.MonkeyPatch
PACKAGE = Path(__file__).resolve().parents[2] / "seglab"
SPLIT = {"fractions": [0.4, 0.3, 0.3]}
Build = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    """Six small patients, two of them sealed."""
    folder = tmp_path_factory.mktemp("sealed")
    write_phantom(folder / "set", patients=6, size=48, slices=8, seed=2, workers=1)
    source = open_source("brats-h5", folder / "set")
    settings = CacheSettings(48, "none", "zscore", "slice")
    cache, _ = prepare(source, settings, folder / "cache", workers=1)
    names = tuple(patient.patient_id for patient in cache.patients)
    split = Split(train=names[:3], val=names[3:4], test=names[4:])
    return StudyData(SealedCache(cache, split), split, identify([], []), missing_files=0)


@pytest.fixture
def store(fresh_store: Store) -> Store:
    return fresh_store


def begin(store: Store) -> RunLog:
    return start_run(store, "e", "promotion", {"seglab.kind": "promotion"})


def with_test(data: StudyData, **changed: object) -> StudyData:
    """The same data with something else about the first test patient."""
    patients = [
        replace(p, **changed) if p.patient_id == data.split.test[0] else p
        for p in data.cache.patients
    ]
    cache = SealedCache(data.cache, data.split)
    cache.patients = tuple(patients)
    return replace(data, cache=cache)


def test_the_first_opening_confirms_and_others_need_a_reason(store: Store, data: StudyData) -> None:
    check_sealed(store, data, None)
    with begin(store) as first:
        opened = open_test(store, first, data, None)
        tags = store.get_run(first.run_id).tags
    assert opened.patients == data.split.test
    assert (opened.confirmatory, opened.openings_before) == (True, 0)
    assert tags["seglab.test_hash"] == opened.test_hash
    assert re.fullmatch("[0-9a-f]{16}", opened.test_hash)
    assert tags["seglab.confirmatory"] == "true"
    assert "seglab.reopen_reason" not in tags
    (record,) = openings(store)
    assert (record.test_hash, record.opened_by) == (opened.test_hash, first.run_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", record.opened_at)
    assert len(record.patients) == len(data.split.test)

    told = f"split {data.split.hash} was opened at .* by promotion {first.run_id}"
    with begin(store) as log:
        for refused, said in ((None, told), ("", "needs a reason"), (" ", "needs a reason")):
            with pytest.raises(UserError, match=said):
                check_sealed(store, data, refused)
            with pytest.raises(UserError, match=said):
                open_test(store, log, data, refused)
    for count in (1, 2):
        check_sealed(store, data, "a wrong table")
        with begin(store) as again:
            opened = open_test(store, again, data, "a wrong table")
        assert (opened.confirmatory, opened.openings_before) == (False, count)
        tags = store.get_run(again.run_id).tags
        assert tags["seglab.confirmatory"] == "false"
        assert tags["seglab.reopen_reason"] == "a wrong table"


def test_the_seal_is_of_patients_slices_and_truth(store: Store, data: StudyData) -> None:
    """What the test part contains names it; how the others are divided and cached does not."""
    patient = {p.patient_id: p for p in data.cache.patients}[data.split.test[0]]
    with begin(store) as log:
        opened = open_test(store, log, data, None)
    train, val, test = data.split.train, data.split.val, data.split.test
    same = (
        replace(data, split=Split(train=train[:2], val=(*val, train[2]), test=test)),
        with_test(data, spacing_mm=(9.0, 9.0, 9.0), first=0, grade="other"),
    )
    for other in same:
        with pytest.raises(UserError, match=log.run_id):
            check_sealed(store, other, None)
        opened.unseal(other)
    more = patient.slice_px.copy()
    more[0] += 1
    others = (
        replace(data, split=Split(train=train, val=(*val, test[1]), test=test[:1])),
        with_test(data, slice_px=more),
        with_test(data, slice_indices=patient.slice_indices + 1),
        with_test(data, native_shape=(48, 49)),
    )
    for other in others:
        check_sealed(store, other, None)
        with pytest.raises(SealBroken, match="another test part than was opened"):
            opened.unseal(other)


def test_a_patient_of_an_opened_test_confirms_nothing(
    store: Store, data: StudyData, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val, test = data.split.train, data.split.val, data.split.test
    parts = (
        (Split(train=train, val=val, test=test), True, 0),
        (Split(train=train[1:], val=(*val, test[1]), test=(test[0], train[0])), False, 1),
        (Split(train=train[:1], val=test, test=val), True, 0),
    )
    first = ""
    for split, is_confirmatory, seen in parts:
        with begin(store) as log:
            warn_of_seen(store, replace(data, split=split), log.run_id)
            opened = open_test(store, log, replace(data, split=split), None)
        assert (opened.confirmatory, opened.openings_before) == (is_confirmatory, 0)
        assert opened.seen_before == seen
        told = f"{seen} of the 2 test patients were tested before, by promotion {first} of e"
        for said in (capsys.readouterr().err, not_confirmatory(store, store.get_run(log.run_id))):
            assert (told in said) is not is_confirmatory
            assert bool(said) is not is_confirmatory
        first = first or log.run_id[:8]


def test_without_a_test_part_or_a_tumour_in_it_nothing_opens(store: Store, data: StudyData) -> None:
    bare = replace(data, split=Split(train=data.split.train, val=data.split.val, test=()))
    healthy = with_test(data, tumour_px=np.zeros(8, np.int32))
    one = replace(healthy, split=replace(data.split, test=data.split.test[:1]))
    for refused, said in (
        (bare, r"split\.fractions has no test share"),
        (one, "none of the 1 test patients has tumour"),
    ):
        with pytest.raises(UserError, match=said):
            check_sealed(store, refused, None)
        with begin(store) as log, pytest.raises(UserError, match=said):
            open_test(store, log, refused, None)
    assert openings(store) == []
    check_sealed(store, healthy, None)  # one with tumour is enough


@pytest.fixture
def config(small_config: Build) -> RunConfig:
    return small_config(split=SPLIT, train={"epochs": 1})


def test_the_channel_is_judged_without_the_test(
    config: RunConfig, phantoms: Path, tmp_path: Path
) -> None:
    data = open_data(config)
    shutil.copytree(phantoms, root := tmp_path / "other")
    for name in data.split.test:
        for path in root.rglob(f"volume_{int(name[-3:])}_slice_*.h5"):
            with h5py.File(path, "r+") as file:
                file["image"][...] = -file["image"][...]
    other = open_data(
        config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    )
    assert other.split == data.split
    assert other.cache.data_hash != data.cache.data_hash
    assert other.identity == data.identity


def test_no_pixel_of_a_test_patient_can_be_read(config: RunConfig) -> None:
    data = open_data(config)
    free = open_cache(data.cache.path)
    patient, rows = free.by_id[data.split.test[0]], np.array([0, 0])
    rows[1] = patient.first
    ways: tuple[Callable[[Cache], Any], ...] = (
        lambda cache: cache.images[0][patient.rows],
        lambda cache: cache.images[0][rows],
        lambda cache: cache.images[0][patient.first],
        lambda cache: cache.images[0][patient.first - len(cache.row_slice)],
        lambda cache: cache.images[0][patient.first : patient.first + 1, :, :],
        lambda cache: cache.images[0][..., 0],
        lambda cache: cache.images[0][:, 0],
        lambda cache: cache.images[0][np.arange(len(cache.row_slice)) == patient.first],
        lambda cache: np.asarray(cache.images[0]),
        lambda cache: list(cache.images[0]),
        lambda cache: cache.masks(patient.rows),
        lambda cache: cache.native_mask(patient),
        lambda cache: cache.coverage(patient.first + patient.tumour_px.argmax(keepdims=True)),
        lambda cache: cache.native_image(patient),
        lambda cache: gather(cache, rows, 1),
    )
    for read in ways:
        read(free)
        with pytest.raises(SealBroken):
            read(data.cache)
    assert not set(data.split.test) & data.cache.by_id.keys()


def test_a_promotion_that_looks_early_breaks(
    config: RunConfig, store: Store, monkeypatch: Patch
) -> None:
    """A rule that would choose on the test finds nothing to choose on."""
    from seglab.learning.operating_point import score_points

    def peek(predictor: Any, cache: Cache, validation: Any) -> Any:
        others = [p.patient_id for p in cache.patients if p.patient_id not in set(validation)]
        return score_points(predictor, cache, others)

    run_id = train_one(Plan(config, "a"), store).run_id
    monkeypatch.setattr(promotion, "score_points", peek)
    with pytest.raises(KeyError):
        promote(store, run_id)


def test_only_promotion_opens_the_seal_and_only_the_seal_reads_the_test_part() -> None:
    def files(pattern: str) -> set[str]:
        found = (path for path in PACKAGE.rglob("*.py") if re.search(pattern, path.read_text()))
        return {path.relative_to(PACKAGE).as_posix() for path in found}

    seal = "studies/sealed_test.py"
    # Who only counts its patients, or compares their names.
    names = {"data/splits.py", "studies/plan.py", "studies/ensemble.py"}
    assert files(r"\.test\b|\[\"test\"\]") <= {"data/sealed.py", seal} | names
    assert files(r"\b(open_test|unseal)\(") == {seal, "studies/promotion.py"}

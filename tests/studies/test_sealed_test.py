"""The sealed test: who gets to its patients, what is written before, and for whom it opens."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Sequence
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
from seglab.studies import promotion, sealed_test
from seglab.studies.experiment import Plan, train_one
from seglab.studies.promotion import promote
from seglab.studies.sealed_test import check_sealed, open_test
from seglab.tracking.openings import Opening, openings
from seglab.tracking.run import RunLog, start_run
from seglab.tracking.store import Store
from tests.data.memory import prepare

PACKAGE = Path(__file__).resolve().parents[2] / "seglab"
SPLIT = {"fractions": [0.4, 0.3, 0.3]}
Build = Callable[..., RunConfig]
NOW = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


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


def test_the_first_opening_confirms_and_is_on_record(store: Store, data: StudyData) -> None:
    check_sealed(store, data, None)
    with begin(store) as log:
        opened = open_test(store, log, data, None)
        tags = store.get_run(log.run_id).tags
    assert opened.patients == data.split.test
    assert (opened.confirmatory, opened.openings_before) == (True, 0)
    assert tags["seglab.test_hash"] == opened.test_hash
    assert re.fullmatch("[0-9a-f]{16}", opened.test_hash)
    assert tags["seglab.confirmatory"] == "true"
    assert "seglab.reopen_reason" not in tags
    (record,) = openings(store)
    assert (record.test_hash, record.opened_by) == (opened.test_hash, log.run_id)
    assert NOW.fullmatch(record.opened_at)
    assert len(record.patients) == len(data.split.test)


def test_later_openings_need_a_reason_and_confirm_nothing(store: Store, data: StudyData) -> None:
    with begin(store) as first:
        open_test(store, first, data, None)
    told = f"split {data.split.hash} was opened at .* by promotion {first.run_id}"
    with begin(store) as log:
        for refused in (None, "", " "):
            said = "needs a reason" if refused is not None else told
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


def test_an_opening_between_check_and_record_refuses_the_later(
    store: Store, data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(store) as other, begin(store) as log:

        def check(*arguments: Any) -> Sequence[Opening]:
            found = check_sealed(*arguments)
            monkeypatch.undo()
            open_test(store, other, data, None)
            return found

        monkeypatch.setattr(sealed_test, "check_sealed", check)
        with pytest.raises(UserError, match="another promotion"):
            open_test(store, log, data, None)


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


def test_another_test_part_with_a_patient_seen_before_confirms_nothing(
    store: Store, data: StudyData
) -> None:
    train, val, test = data.split.train, data.split.val, data.split.test
    parts = (
        (Split(train=train, val=val, test=test), True, 0),
        (Split(train=train[1:], val=(*val, test[1]), test=(test[0], train[0])), False, 1),
        (Split(train=train[:1], val=test, test=val), True, 0),
    )
    for split, is_confirmatory, seen in parts:
        with begin(store) as log:
            opened = open_test(store, log, replace(data, split=split), None)
        assert (opened.confirmatory, opened.openings_before) == (is_confirmatory, 0)
        assert opened.seen_before == seen


def test_without_a_test_part_or_a_tumour_in_it_nothing_opens(store: Store, data: StudyData) -> None:
    bare = replace(data, split=Split(train=data.split.train, val=data.split.val, test=()))
    with pytest.raises(UserError, match=r"split\.fractions has no test share"):
        check_sealed(store, bare, None)
    healthy = with_test(data, tumour_px=np.zeros(8, np.int32))
    one = replace(healthy, split=replace(data.split, test=data.split.test[:1]))
    with begin(store) as log, pytest.raises(UserError, match="none of the 1 test patients"):
        open_test(store, log, one, None)
    assert openings(store) == []
    check_sealed(store, healthy, None)  # one with tumour is enough


def test_an_opened_patient_can_be_read(store: Store, data: StudyData) -> None:
    with begin(store) as log:
        free = open_test(store, log, data, None).unseal(data)
    for name in data.split.test:
        assert name not in data.cache.by_id
        assert free.images[0][free.by_id[name].rows].any()
        free.native_mask(free.by_id[name])


@pytest.fixture
def config(small_config: Build) -> RunConfig:
    return small_config(split=SPLIT, train={"epochs": 1})


def test_the_channel_is_judged_without_the_test_patients(
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
        lambda cache: cache.native_image(patient),
        lambda cache: gather(cache, rows, 1),
    )
    for read in ways:
        read(free)
        with pytest.raises(SealBroken):
            read(data.cache)
    assert not set(data.split.test) & data.cache.by_id.keys()


def test_a_promotion_that_looks_before_it_opens_breaks(
    config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch
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


def readers_and_openers(path: Path) -> tuple[bool, bool]:
    """Whether a file has an attribute or a key called ``test``, and whether it opens the seal."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {getattr(node, "attr", getattr(node, "name", "")) for node in nodes}
    keys = {getattr(node.slice, "value", "") for node in nodes if isinstance(node, ast.Subscript)}
    return "test" in names | keys, bool({"open_test", "unseal"} & names)


def test_only_promotion_opens_the_seal_and_only_the_seal_reads_the_test_part() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): readers_and_openers(path)
        for path in PACKAGE.rglob("*.py")
    }
    seal = "studies/sealed_test.py"
    readers = {name for name, (reads, _) in found.items() if reads}
    # Who only counts its patients, or compares their names.
    names = {"data/splits.py", "studies/plan.py", "studies/ensemble.py"}
    assert readers <= {"data/sealed.py", seal} | names, readers
    assert {name for name, (_, opens) in found.items() if opens} == {seal, "studies/promotion.py"}

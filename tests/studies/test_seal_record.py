"""The seal by itself: what is written before anything is handed out, and to whom it opens."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.cache import CacheSettings
from seglab.data.identity import identify
from seglab.data.phantom import write_phantom
from seglab.data.prepare import prepare
from seglab.data.sealed import SealBroken, SealedCache
from seglab.data.sources import open_source
from seglab.data.splits import Split
from seglab.studies.data import StudyData
from seglab.studies.sealed_test import check_sealed, open_test
from seglab.tracking import RunLog, Store, open_store, start_run
from seglab.tracking.openings import openings

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


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; copied, not used, since making one takes seconds."""
    return open_store(tmp_path_factory.mktemp("empty") / "mlruns").folder


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Store:
    shutil.copytree(empty, tmp_path / "mlruns")
    return open_store(tmp_path / "mlruns")


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
    more = patient.whole_px.copy()
    more[0] += 1
    others = (
        replace(data, split=Split(train=train, val=(*val, test[1]), test=test[:1])),
        with_test(data, whole_px=more),
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


def test_opened_patients_can_be_read_and_sealed_ones_cannot(store: Store, data: StudyData) -> None:
    with begin(store) as log:
        free = open_test(store, log, data, None).unseal(data).cache
    sealed = data.cache
    (hidden,), (image,) = sealed.images, free.images
    assert (len(hidden), hidden.shape, hidden.dtype) == (len(image), image.shape, image.dtype)
    allowed = next(iter(sealed.by_id.values())).first
    for patient in free.patients:
        rows = np.arange(patient.first, patient.first + patient.count)
        if patient.patient_id in data.split.test:
            assert patient.patient_id not in sealed.by_id
            for row in rows:
                for array in (hidden, sealed.masks_packed):
                    with pytest.raises(SealBroken, match="a slice of a test patient"):
                        array[row]
                    with pytest.raises(SealBroken):
                        array[row, allowed]
            with pytest.raises(SealBroken, match=f"test patient {patient.patient_id}"):
                sealed.native_mask(patient)
        else:
            assert sealed.by_id[patient.patient_id] is not None
            assert np.array_equal(hidden[rows], image[rows])
            assert np.array_equal(sealed.masks_packed[rows], free.masks_packed[rows])
            assert np.array_equal(hidden[rows, 1:2], image[rows, 1:2])
            assert np.array_equal(sealed.native_mask(patient), free.native_mask(patient))

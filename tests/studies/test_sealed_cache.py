"""Whatever a run does with its data, the pixels of the test patients are out of its reach."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from seglab.core.config import RunConfig
from seglab.data.cache import Cache, open_cache
from seglab.data.loader import gather
from seglab.data.sealed import SealBroken
from seglab.learning.inference import evaluate
from seglab.studies.data import StudyData, open_data
from seglab.studies.experiment import Plan, train_one
from seglab.studies.promotion import freeze, promote
from seglab.studies.resolve import load_trained
from seglab.studies.sealed_test import open_test
from seglab.tracking import Store, open_store, start_run

SPLIT = {"fractions": [0.4, 0.3, 0.3]}
Build = Callable[..., RunConfig]


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


def test_the_others_are_read_as_they_are(config: RunConfig) -> None:
    data = open_data(config)
    free = open_cache(data.cache.path)
    for name in (*data.split.train, *data.split.val):
        patient = free.by_id[name]
        for cache in (data.cache, free):
            assert cache.by_id[name].rows == patient.rows
        assert np.array_equal(data.cache.images[0][patient.rows], free.images[0][patient.rows])
        assert np.array_equal(data.cache.native_mask(patient), free.native_mask(patient))
        assert np.array_equal(data.cache.native_image(patient), free.native_image(patient))


def test_a_run_and_the_choice_of_its_setting_do_without_them(
    config: RunConfig, store: Store
) -> None:
    """Training, its pictures and the frozen setting come from data whose test is out of reach."""
    run_id = train_one(Plan(config, "a"), store).run_id
    trained = load_trained(store, store.get_run(run_id))
    assert freeze(trained).selection.patients > 0
    with pytest.raises(KeyError):
        evaluate(trained.predictor, trained.data.cache, trained.data.split.test, 0.5)


def test_only_an_opened_test_gives_them_and_only_its_own(
    config: RunConfig, small_config: Build, store: Store
) -> None:
    data, other = open_data(config), open_data(small_config(split={**SPLIT, "seed": 1}))
    assert set(data.split.test) != set(other.split.test)
    with start_run(store, "opened", "promotion", {"seglab.kind": "promotion"}) as log:
        opened = open_test(store, log, data, None)
    found: StudyData = opened.unseal(data)
    for name in opened.patients:
        patient = found.cache.by_id[name]
        assert found.cache.images[0][patient.rows].any()
        found.cache.native_mask(patient)
    with pytest.raises(SealBroken, match="another test part"):
        opened.unseal(other)


def test_a_promotion_that_looks_before_it_opens_breaks(
    config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A rule that would choose on the test finds nothing to choose on."""
    from seglab.learning.operating_point import select_operating_point
    from seglab.studies import promotion as room

    def peek(predictor: Any, cache: Cache, validation: Any) -> Any:
        others = [p.patient_id for p in cache.patients if p.patient_id not in set(validation)]
        return select_operating_point(predictor, cache, others)

    fresh = open_store(tmp_path / "mlruns")
    run_id = train_one(Plan(config, "a"), fresh).run_id
    monkeypatch.setattr(room, "select_operating_point", peek)
    with pytest.raises(KeyError):
        promote(fresh, run_id)

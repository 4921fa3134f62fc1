"""Batches: the same for the same seed, fair to every slice, true to neighbours."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np
import pytest

from seglab.core.config import RunConfig
from seglab.data.cache import Cache
from seglab.data.loader import TrainLoader, gather, neighbour, patient_rows
from seglab.data.open import open_data


@pytest.fixture(scope="module")
def cache(request: pytest.FixtureRequest, phantoms: object) -> Cache:
    from seglab.core.study import build_run

    folder = request.getfixturevalue("shared_cache")
    document = {
        "name": "x",
        "data": {"source": "brats-h5", "root": phantoms, "cache": folder, "image_size": 64},
        "split": {"fractions": [0.7, 0.3, 0.0]},
    }
    return open_data(build_run(document)).cache


def loader(cache: Cache, config: RunConfig) -> TrainLoader:
    return TrainLoader(cache, [p.patient_id for p in cache.patients[:5]], config)


def test_an_epoch_shows_each_slice_once_and_epochs_differ_and_repeat(
    cache: Cache, small_config: Callable[..., RunConfig]
) -> None:
    first, second = loader(cache, small_config()), loader(cache, small_config())
    second.draw(4)  # what was drawn before does not matter
    assert np.array_equal(first.draw(1), second.draw(1))
    assert not np.array_equal(first.draw(0), first.draw(1))
    assert not np.array_equal(first.draw(0), loader(cache, small_config(seed=1)).draw(0))
    assert sorted(np.concatenate(list(first.split(0)))) == sorted(first.rows)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8, 1000])
def test_batches_add_up_and_none_is_left_alone(
    cache: Cache, small_config: Callable[..., RunConfig], batch_size: int
) -> None:
    one = loader(cache, small_config(train={"batch_size": batch_size, "samples_per_epoch": 22}))
    sizes = [len(rows) for rows in one.split(0)]
    assert sum(sizes) == 22
    assert len(sizes) == one.batches
    assert batch_size == 1 or min(sizes) > 1


def test_oversampling_gives_the_share_asked_for(
    cache: Cache, small_config: Callable[..., RunConfig]
) -> None:
    train = {"tumour_fraction": 0.75, "samples_per_epoch": 40}
    rows = loader(cache, small_config(train=train)).draw(0)
    assert (cache.row_tumour_px[rows] > 0).sum() == 30
    # Every tumour slice comes before any comes again.
    counts = np.unique(rows[cache.row_tumour_px[rows] > 0], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def test_slices_without_brain_are_not_trained_on(
    cache: Cache, small_config: Callable[..., RunConfig]
) -> None:
    rows = {
        which: loader(cache, small_config(data={"slices": which})).rows
        for which in ("all", "brain", "tumour")
    }
    assert (cache.row_brain_px[rows["brain"]] > 0).all()
    assert (cache.row_tumour_px[rows["tumour"]] > 0).all()
    assert np.array_equal(rows["all"], patient_rows(*cache.patients[:5]))


def test_neighbours_stay_in_the_patient(cache: Cache) -> None:
    rows = np.arange(len(cache.row_slice))
    for offset in (-2, -1, 1, 2):
        other = neighbour(cache, rows, offset)
        assert np.array_equal(cache.row_patient[other], cache.row_patient[rows])
    patient = cache.patients[1]
    inside = patient_rows(patient)
    assert neighbour(cache, inside, -1)[0] == inside[0]
    assert neighbour(cache, inside, 1)[-1] == inside[-1]
    assert np.array_equal(neighbour(cache, inside, 1)[:-1], inside[1:])


def test_context_puts_the_slice_itself_in_the_middle(cache: Cache) -> None:
    rows = patient_rows(cache.patients[0])[3:6]
    images = gather(cache, rows, 2)
    assert images.shape == (3, *cache.shape, 5)
    assert np.array_equal(images[..., 2], cache.images[0][rows])
    assert np.array_equal(images[..., 4], cache.images[0][rows + 2])


def test_all_neighbours_of_a_modality_come_before_those_of_the_next(cache: Cache) -> None:
    rows = patient_rows(cache.patients[1])[2:8]
    two = copy(cache)
    two.images = (cache.images[0], 255 - cache.images[0][:])
    images = gather(two, rows, 1)
    assert images.shape[-1] == 6
    assert np.array_equal(images[..., :3], gather(cache, rows, 1))
    assert np.array_equal(images[..., 3:], 255 - images[..., :3])

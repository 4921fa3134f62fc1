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

Build = Callable[..., RunConfig]
Load = Callable[..., TrainLoader]


@pytest.fixture(scope="module")
def cache(small_config: Build) -> Cache:
    return open_data(small_config(split={"fractions": [0.7, 0.3, 0.0]})).cache


@pytest.fixture
def loader(cache: Cache, small_config: Build) -> Load:
    """Build a loader of five patients; the keys of the config are laid over the small one's."""
    names = [patient.patient_id for patient in cache.patients[:5]]
    return lambda **keys: TrainLoader(cache, names, small_config(**keys))


def test_an_epoch_shows_each_slice_once_and_epochs_differ_and_repeat(loader: Load) -> None:
    first, second = loader(), loader()
    second.draw(4)  # what was drawn before does not matter
    assert np.array_equal(first.draw(1), second.draw(1))
    assert not np.array_equal(first.draw(0), first.draw(1))
    assert not np.array_equal(first.draw(0), loader(seed=1).draw(0))
    assert sorted(np.concatenate(list(first.split(0)))) == sorted(first.rows)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8, 1000])
def test_batches_add_up_and_none_is_of_one_slice(loader: Load, batch_size: int) -> None:
    one = loader(train={"batch_size": batch_size, "samples_per_epoch": 22})
    sizes = [len(rows) for rows in one.split(0)]
    assert sum(sizes) == 22
    assert len(sizes) == one.batches
    assert batch_size == 1 or min(sizes) > 1


def test_oversampling_gives_the_share_asked_for(cache: Cache, loader: Load) -> None:
    rows = loader(train={"tumour_fraction": 0.75, "samples_per_epoch": 40}).draw(0)
    assert (cache.row_tumour_px[rows] > 0).sum() == 30
    # Every tumour slice comes before any comes again.
    counts = np.unique(rows[cache.row_tumour_px[rows] > 0], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def test_slices_without_brain_are_not_trained_on(cache: Cache, loader: Load) -> None:
    kinds = ("all", "brain", "tumour")
    rows = {which: loader(data={"slices": which}).rows for which in kinds}
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


def test_neighbours_are_channels_beside_the_slice(cache: Cache) -> None:
    rows = patient_rows(cache.patients[0])[3:6]
    two = copy(cache)
    two.images = (cache.images[0], 255 - cache.images[0][:])
    images = gather(two, rows, 2)
    assert images.shape == (3, *cache.shape, 10)
    assert np.array_equal(images[..., 2], cache.images[0][rows])
    assert np.array_equal(images[..., 4], cache.images[0][rows + 2])
    assert np.array_equal(images[..., 5:], 255 - images[..., :5])

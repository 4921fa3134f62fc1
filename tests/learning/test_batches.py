"""Training batches: the same bits however they are prepared, and nothing left behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from seglab.core.config import RunConfig
from seglab.data.cache import COVERED
from seglab.data.loader import gather, patient_rows
from seglab.data.open import StudyData, open_data
from seglab.learning.batches import (
    LARGEST_SHARE,
    WORKERS_PER_GPU,
    ResidentSlices,
    TensorBatch,
    fits,
    frame_of,
    prefetch,
)
from seglab.learning.device import Compute, peak_memory_mb, restart_peak
from tests.learning.trainers import Build, trainer_of

CPU = torch.device("cpu")
GRID = {"name": "albumentations", "transforms": ["GridDistortion"]}


def joined(batches: Iterable[TensorBatch]) -> tuple[np.ndarray, ...]:
    """Images, masks and rows of all batches."""
    parts = [(batch.images, batch.masks, batch.rows) for batch in batches]
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


@pytest.mark.parametrize("augment", ["default", GRID])
def test_threads_and_batch_size_do_not_change_the_bits(
    small_config: Build, augment: object
) -> None:
    def epoch(number: int, **train: int) -> tuple[np.ndarray, ...]:
        config: RunConfig = small_config(augment=augment, data={"context": 1}, train=train)
        return joined(trainer_of(config)[0].batches.epoch(number))

    expected = epoch(2)
    for found in (epoch(2, threads=4), epoch(2, batch_size=3)):
        assert all(map(np.array_equal, found, expected))
    assert not np.array_equal(epoch(1)[0], expected[0])


@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("augment", ["none", {"name": "mirror", "p": 1}])
def test_soft_targets_are_the_coverage_and_move_with_the_slices(
    small_config: Build, augment: object, is_resident: bool
) -> None:
    soft = {"soft_targets": True}
    config = small_config(augment=augment, data={"image_size": 32}, train=soft)
    trainer, data = trainer_of(config)
    batches = trainer.batches
    if is_resident:
        batches.resident = ResidentSlices(data.cache, rows_of(data), 0, CPU, batches.read_masks)
    _, masks, rows = joined(batches.epoch(0))
    expected = data.cache.coverage(rows).astype(np.float32) / np.float32(COVERED)
    if augment != "none":
        expected = np.flip(expected, 1 + data.cache.flip_axis)
    assert ((expected > 0) & (expected < 1)).any()
    assert np.array_equal(masks[:, 0], expected)


@pytest.mark.parametrize("augment", ["default", GRID])
def test_augmentation_moves_coverage_and_mixes_none(small_config: Build, augment: object) -> None:
    """The shares are those of the cache; a picture of them is a mask."""
    soft = {"soft_targets": True}
    trainer, data = trainer_of(small_config(augment=augment, data={"image_size": 32}, train=soft))
    _, masks, rows = joined(trainer.batches.epoch(1))
    for mask, share in zip(masks[:, 0], data.cache.coverage(rows) / COVERED, strict=True):
        assert np.isin(mask, share.astype(np.float32)).all() or not mask.any()
    row = int(data.cache.row_tumour_px[rows].argmax())
    _, shown = trainer.batches.examples(int(rows[row]), 3)
    assert set(np.unique(shown)) == {0, 1}


def test_without_augmentation_batches_are_the_cache_scaled(small_config: Build) -> None:
    trainer, data = trainer_of(small_config(augment="none", data={"context": 1}))
    batches = list(trainer.batches.epoch(0))
    images, masks, rows = joined(batches)
    grey = gather(data.cache, rows, 1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, (grey / 255 - 0.5) / 0.25, atol=1e-6)
    assert np.array_equal(masks[:, 0], data.cache.masks(rows))
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)


def rows_of(data: StudyData) -> np.ndarray:
    """Rows of the training patients."""
    return patient_rows(*(data.cache.by_id[name] for name in data.split.train))


@pytest.mark.parametrize(("context", "modalities"), [(0, ["flair"]), (2, ["t1ce", "flair"])])
def test_resident_slices_are_those_of_the_cache(
    small_config: Build, context: int, modalities: list[str]
) -> None:
    data = open_data(small_config(data={"modalities": modalities}))
    kept = rows_of(data)
    resident = ResidentSlices(data.cache, kept, context, CPU, data.cache.masks)
    rows = np.random.default_rng(0).permutation(kept)[:9]
    images, masks = resident.slices(rows)
    expected = gather(data.cache, rows, context).transpose(0, 3, 1, 2)
    assert np.array_equal(images.numpy(), expected.astype(np.float32))
    assert np.array_equal(masks[:, 0].numpy(), data.cache.masks(rows))


@pytest.mark.parametrize(
    ("share", "workers", "expected"),
    [(1.01, "1", True), (0.99, "1", False), (1.01, "2", False), (2.02, "2", True)],
)
def test_slices_fit_if_they_leave_room_for_the_network(
    data: StudyData, monkeypatch: pytest.MonkeyPatch, share: float, workers: str, expected: bool
) -> None:
    rows = rows_of(data)
    free = int(share * 2 * gather(data.cache, rows, 0).size / LARGEST_SHARE)
    monkeypatch.setenv(WORKERS_PER_GPU, workers)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free - 1000, 2 * free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 1500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 500)
    assert fits(data.cache, rows, torch.device("cuda", 0)) == expected


def test_the_frame_is_in_millimetres_where_spacing_is_known(small_config: Build) -> None:
    cache = open_data(small_config(data={"image_size": 32, "crop": "none"})).cache
    known = [
        replace(patient, spacing_mm=(3.0, 0.9, 0.9), native_shape=(64, 64))
        for patient in cache.patients
    ]
    frame = frame_of(cache, known, 2)
    assert (frame.hw, frame.neighbours) == ((32, 32), 5)
    assert frame.pixel_mm == pytest.approx(0.9 * 64 / 32)
    unknown = [replace(patient, spacing_mm=None) for patient in known]
    assert frame_of(cache, unknown, 0).pixel_mm == pytest.approx(240 / 32)


def test_albumentations_runs_on_the_processor_whatever_trains(small_config: Build) -> None:
    plain, named = (trainer_of(small_config(augment=x))[0].batches for x in ("default", GRID))
    plain.compute = named.compute = Compute(torch.device("cuda", 0), "bf16", 4)
    assert (plain.augmented_on, named.augmented_on) == ("cuda", "cpu")
    assert named.resident is None


@pytest.fixture
def none_left_over() -> Iterator[None]:
    """Fails where a thread outlives the test."""
    yield
    assert not [one for one in threading.enumerate() if one.name.startswith("prefetch")]


@pytest.mark.usefixtures("none_left_over")
class TestPrefetch:
    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_results_come_in_the_order_of_the_items(self, threads: int) -> None:
        def late_if_even(item: int) -> int:
            time.sleep(0.002 * (item % 2 == 0))
            return 10 * item

        assert list(prefetch(late_if_even, range(40), threads)) == [10 * i for i in range(40)]
        assert list(prefetch(late_if_even, [], threads)) == []
        before = torch.get_num_threads()
        assert list(prefetch(lambda _: torch.get_num_threads(), range(4), threads)) == [1] * 4
        assert torch.get_num_threads() == before

    @pytest.mark.parametrize("threads", [1, 4])
    def test_no_more_is_prepared_than_a_few_results(self, threads: int) -> None:
        taken: list[int] = []
        stream = prefetch(lambda item: item, (taken.append(n) or n for n in range(1000)), threads)
        for expected in range(20):
            assert next(stream) == expected
            assert len(taken) <= expected + threads + 2
        stream.close()

    def test_an_error_is_raised_where_its_result_is_due(self) -> None:
        stream = prefetch(lambda item: 1 // (2 - item), range(5), threads=2)
        assert [next(stream), next(stream)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(stream)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_the_peak_of_memory_is_that_of_the_run() -> None:
    restart_peak(CPU)
    before = peak_memory_mb(CPU)
    held = np.ones((200, 2**20), np.uint8)
    assert peak_memory_mb(CPU) - before > 150
    del held
    restart_peak(CPU)
    assert peak_memory_mb(CPU) - before < 50

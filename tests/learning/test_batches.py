"""Training batches: the same bits however they are prepared, and nothing left behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from seglab.core.config import RunConfig
from seglab.data.cache import Cache
from seglab.data.loader import gather, patient_rows
from seglab.data.open import StudyData, open_data
from seglab.learning.batches import (
    LARGEST_SHARE,
    WORKERS_PER_GPU,
    Batches,
    ResidentSlices,
    TensorBatch,
    fits,
    frame_of,
    prefetch,
)
from seglab.learning.device import Compute, peak_memory_mb, restart_peak
from seglab.learning.training import Trainer

Build = Callable[..., RunConfig]
CPU = torch.device("cpu")

GRID = {"name": "albumentations", "transforms": ["GridDistortion"]}


def batches_of(config: RunConfig, threads: int = 1) -> tuple[Batches, StudyData]:
    data = open_data(config)
    return Trainer(
        config, data.cache, data.split.train, Compute(CPU, "fp32", threads)
    ).batches, data


def joined(batches: list[TensorBatch]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.masks for batch in batches]),
        np.concatenate([batch.rows for batch in batches]),
    )


@pytest.mark.parametrize("augment", ["default", GRID])
def test_threads_and_batch_size_do_not_change_the_bits(
    small_config: Build, augment: object
) -> None:
    overrides = {"augment": augment, "data": {"context": 1}}
    one, _ = batches_of(small_config(**overrides))
    four, _ = batches_of(small_config(**overrides), threads=4)
    other, _ = batches_of(small_config(**overrides, train={"batch_size": 3}))
    expected = joined(list(one.epoch(2)))
    for found in (joined(list(four.epoch(2))), joined(list(other.epoch(2)))):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert np.array_equal(found[2], expected[2])
    assert not torch.equal(joined(list(one.epoch(1)))[0], expected[0])


def test_without_augmentation_batches_are_the_cache_scaled(small_config: Build) -> None:
    batches, data = batches_of(small_config(augment="none", data={"context": 1}))
    images, masks, rows = joined(list(batches.epoch(0)))
    grey = gather(data.cache, rows, 1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images.numpy(), (grey / 255 - 0.5) / 0.25, atol=1e-6)
    assert np.array_equal(masks[:, 0].numpy(), data.cache.masks(rows))
    batch = next(batches.epoch(0))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("modalities", [["flair"], ["t1ce", "flair"]])
def test_resident_slices_are_those_of_the_cache(
    small_config: Build, context: int, modalities: list[str]
) -> None:
    data = open_data(small_config(data={"modalities": modalities}))
    kept = np.sort(np.concatenate([patient_rows(data.cache.by_id[n]) for n in data.split.train]))
    resident = ResidentSlices(data.cache, kept, context, CPU)
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
    small_config: Build,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    workers: str,
    expected: bool,
) -> None:
    data = open_data(small_config())
    cache: Cache = data.cache
    rows = np.concatenate([patient_rows(cache.by_id[name]) for name in data.split.train])
    used = 2 * gather(cache, rows, 0).size
    free = int(share * used / LARGEST_SHARE)
    monkeypatch.setenv(WORKERS_PER_GPU, workers)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free - 1000, 2 * free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 1500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 500)
    assert fits(cache, rows, torch.device("cuda", 0)) == expected


def test_the_frame_is_in_millimetres_where_spacing_is_known(small_config: Build) -> None:
    for size in (64, 32):
        config = small_config(data={"image_size": size, "crop": "none"})
        cache = open_data(config).cache
        patients = [
            replace(patient, spacing_mm=(3.0, 0.9, 0.9), native_shape=(64, 64))
            for patient in cache.patients
        ]
        frame = frame_of(cache, patients, 2)
        assert frame.hw == (size, size)
        assert frame.pixel_mm == pytest.approx(0.9 * 64 / size)
        assert frame.neighbours == 5
        unknown = [replace(patient, spacing_mm=None) for patient in patients]
        assert frame_of(cache, unknown, 0).pixel_mm == pytest.approx(240 / size)


def test_albumentations_runs_on_the_processor_whatever_trains(small_config: Build) -> None:
    batches, _ = batches_of(small_config())
    named, _ = batches_of(small_config(augment=GRID))
    gpu = Compute(torch.device("cuda", 0), "bf16", 4)
    batches.compute = named.compute = gpu
    assert (batches.augmented_on, named.augmented_on) == ("cuda", "cpu")
    assert named.resident is None


def left_over() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def late_if_even(item: int) -> int:
        time.sleep(0.002 * (item % 2 == 0))
        return 10 * item

    assert list(prefetch(late_if_even, range(40), threads)) == [10 * item for item in range(40)]
    assert list(prefetch(late_if_even, [], threads)) == []
    before = torch.get_num_threads()
    assert list(prefetch(lambda _: torch.get_num_threads(), range(4), threads)) == [1] * 4
    assert torch.get_num_threads() == before
    assert not left_over()


@pytest.mark.parametrize("threads", [1, 4])
def test_no_more_is_prepared_than_a_few_results(threads: int) -> None:
    taken: list[int] = []
    stream = prefetch(lambda item: item, (taken.append(n) or n for n in range(1000)), threads)
    for expected in range(20):
        assert next(stream) == expected
        assert len(taken) <= expected + threads + 2
    stream.close()
    assert not left_over()


def test_an_error_is_raised_where_its_result_is_due() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("broken")
        return item

    stream = prefetch(work, range(5), threads=2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(stream)
    assert not left_over()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_the_peak_of_memory_is_that_of_the_run() -> None:
    restart_peak(CPU)
    before = peak_memory_mb(CPU)
    held = np.ones((200, 2**20), np.uint8)
    assert peak_memory_mb(CPU) - before > 150
    del held
    restart_peak(CPU)
    assert peak_memory_mb(CPU) - before < 50

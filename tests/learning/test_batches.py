"""Batches made on the device, here torch's CPU device: same slices, same order, same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seglab.core.config import RunConfig
from seglab.core.registry import LOSSES
from seglab.data.loader import TrainLoader
from seglab.learning import batches as module
from seglab.learning.batches import (
    DeviceBatches,
    HostBatches,
    TensorBatch,
    choose_batches,
    with_room,
)
from seglab.learning.device import Compute, choose_compute
from seglab.learning.resident import LARGEST_SHARE, WORKERS_PER_GPU, fits, kept_rows
from seglab.learning.training import Trainer, _step, fit, train_step
from seglab.losses.boundary import signed_distance_there
from seglab.studies.data import StudyData, open_data

Build = Callable[..., RunConfig]
GPU = Compute(torch.device("cuda"), "bf16", 1)
OTHERWISE_ON_GPU = {"boundary"}
"""Losses that take another way there."""


@pytest.fixture(autouse=True)
def _say_again() -> Iterator[None]:
    module.say_once.cache_clear()
    yield
    module.say_once.cache_clear()


def trainer_on_device(config: RunConfig) -> tuple[Trainer, StudyData]:
    """A trainer that treats the processor as it would a GPU."""
    data = open_data(config)
    trainer = Trainer(config, data.cache, data.split.train, choose_compute(config.train))
    trainer.batches = DeviceBatches(trainer.loader, data.split.train, trainer.compute)
    return trainer, data


def equal(one: TensorBatch, other: TensorBatch) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.masks, other.masks)
        and np.array_equal(one.rows, other.rows)
    )


@pytest.mark.parametrize("context", [0, 2])
def test_without_augmentation_device_and_processor_give_the_same_batches(
    small_config: Build, context: int
) -> None:
    trainer, _ = trainer_on_device(
        small_config(augment={"name": "none"}, data={"context": context})
    )
    assert isinstance(trainer.batches, DeviceBatches)
    host = HostBatches(trainer.loader, trainer.compute)
    pairs = list(zip(host.epoch(2), trainer.batches.epoch(2), strict=True))
    assert trainer.batches.is_resident
    assert len(pairs) == trainer.loader.batches
    assert all(equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("augmentation", ["default", "all"])
def test_threads_change_nothing(small_config: Build, augmentation: str) -> None:
    config = small_config(augment={"name": augmentation}, train={"samples_per_epoch": 150})
    data = open_data(config)
    epochs = []
    for threads in (1, 7):
        compute = Compute(torch.device("cpu"), "fp32", threads)
        loader = TrainLoader(data.cache, data.split.train, config)
        batches = HostBatches(loader, compute)
        epochs.append([*batches.epoch(0), *batches.epoch(1)])
    assert all(equal(one, other) for one, other in zip(*epochs, strict=True))
    assert not torch.equal(epochs[0][0].images, epochs[0][1].images)


def test_where_the_slices_lie_changes_nothing(small_config: Build) -> None:
    trainer, _ = trainer_on_device(small_config(data={"context": 1}))
    resident = list(trainer.batches.epoch(1))
    assert trainer.batches.is_resident
    trainer.batches.make_room()
    hosted = list(trainer.batches.epoch(1))
    assert not trainer.batches.is_resident
    assert all(equal(one, other) for one, other in zip(resident, hosted, strict=True))


def test_training_on_device_batches_repeats_and_learns(small_config: Build) -> None:
    config = small_config(train={"epochs": 12})
    losses = []
    for _ in range(2):
        trainer, data = trainer_on_device(config)
        losses.append([r.metrics["train/loss"] for r in fit(trainer, data.split.val)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.6 * losses[0][0]


@pytest.mark.parametrize(
    ("unused", "workers", "expected"),
    [(0, None, False), (2**20, None, True), (2**20, "1", True), (2**20, "2", False)],
)
def test_slices_may_take_their_share_of_what_is_free_or_kept_unused(
    small_config: Build,
    monkeypatch: pytest.MonkeyPatch,
    unused: int,
    workers: str | None,
    expected: bool,
) -> None:
    data = open_data(small_config())
    rows = kept_rows(data.cache, data.split.train)
    wanted = sum(a[rows].nbytes for a in (*data.cache.images, data.cache.masks_packed))
    free = int(wanted / LARGEST_SHARE) + 1 - 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2**30 + unused)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**30)
    monkeypatch.delenv(WORKERS_PER_GPU, raising=False)
    if workers:
        monkeypatch.setenv(WORKERS_PER_GPU, workers)
    assert fits(data.cache, data.split.train, GPU.device) == expected


class OutOnce:
    """A loss that runs out of memory once, at the step asked for."""

    def __init__(self, loss: Any, at: int) -> None:
        self.loss, self.at, self.calls = loss, at, 0

    def __call__(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise torch.OutOfMemoryError("as on a full GPU")
        result: torch.Tensor = self.loss(logits, mask)
        return result


def test_out_of_memory_gives_the_slices_up_and_goes_on(
    small_config: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without batch normalisation a step that is repeated leaves no trace.
    config = small_config(train={"epochs": 2}, model={"norm": "instance"})
    results = []
    for at in (0, 3):
        trainer, data = trainer_on_device(config)
        trainer.loss = OutOnce(trainer.loss, at)
        results.append([r.metrics["train/loss"] for r in fit(trainer, data.split.val)])
        assert trainer.batches.is_resident == (at == 0)
    assert results[0] == results[1]
    assert capsys.readouterr().err.count("do not fit on the device") == 1


def test_room_that_another_thread_has_made_meanwhile_is_used(small_config: Build) -> None:
    trainer, _ = trainer_on_device(small_config())
    batches, tries = trainer.batches, []
    list(batches.epoch(0))

    def attempt() -> str:
        tries.append(batches.is_resident)
        if len(tries) == 1:
            thread = threading.Thread(target=batches.make_room)
            thread.start()
            thread.join()
            raise torch.OutOfMemoryError("as on a full GPU")
        return "done"

    assert with_room(batches, attempt) == "done"
    assert tries == [True, False]


@pytest.mark.parametrize("made", [0, 1, 9])
def test_out_of_memory_while_the_optimizer_makes_its_state(
    small_config: Build, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    config = small_config(optim={"name": "adamw"}, model={"norm": "instance"})
    whole, _ = trainer_on_device(config)
    batch = next(iter(whole.batches.epoch(0)))
    _step(whole, batch)
    trainer, _ = trainer_on_device(config)
    batch = next(iter(trainer.batches.epoch(0)))
    zeros, calls = torch.zeros_like, []

    def full(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == made + 1:
            raise torch.OutOfMemoryError("as on a full GPU")
        return zeros(*args, **kwargs)

    monkeypatch.setattr(torch, "zeros_like", full)
    _step(trainer, batch)
    monkeypatch.undo()
    assert len(calls) > made + 1
    pairs = zip(whole.network.parameters(), trainer.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_out_of_memory_is_raised_when_nothing_can_be_given_up(small_config: Build) -> None:
    config = small_config()
    data = open_data(config)
    trainer = Trainer(config, data.cache, data.split.train, choose_compute(config.train))
    trainer.loss = OutOnce(trainer.loss, 1)
    with pytest.raises(torch.OutOfMemoryError):
        next(fit(trainer, data.split.val))


def test_a_pipeline_the_device_does_not_know_runs_on_the_processor(
    small_config: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, data = trainer_on_device(small_config())
    assert choose_batches(trainer.loader, data.split.train, trainer.compute).augmented_on == "cpu"
    assert capsys.readouterr().err == ""
    loader = Trainer(
        small_config(augment={"name": "grid"}), data.cache, data.split.train, trainer.compute
    ).loader
    for _ in range(2):
        chosen = choose_batches(loader, data.split.train, GPU)
        assert isinstance(chosen, HostBatches)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "augment.name: grid: GridDistortion has no GPU version" in said[0]


class ReadBacks(TorchDispatchMode):
    """Lists the operations that make the processor wait for a GPU."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in {"index", "index_put", "index_put_"} and any(
            t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        )
        if by_mask or any(name.startswith(waiting) for waiting in self.WAITING):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_read_backs_are_seen() -> None:
    values = torch.rand(3)
    with ReadBacks() as waits:
        float(values.sum())
        values[values > 0]
    assert waits.found == ["_local_scalar_dense", "index"]


@pytest.mark.parametrize("loss", sorted({e.name for e in LOSSES} - OTHERWISE_ON_GPU - {"explodes"}))
def test_no_step_reads_from_the_device(small_config: Build, loss: str) -> None:
    trainer, _ = trainer_on_device(small_config(loss={"name": loss}, augment={"name": "default"}))
    batch = next(iter(trainer.batches.epoch(0)))
    train_step(trainer, batch)  # makes the optimizer's state
    with ReadBacks() as waits:
        train_step(trainer, batch)
    assert waits.found == []


def test_no_distance_reads_from_the_device() -> None:
    mask = (torch.rand(2, 1, 20, 24) < 0.1).float()
    with ReadBacks() as waits:
        signed_distance_there(mask)
    assert waits.found == []


@pytest.mark.parametrize("name", ["default", "intensity", "flips"])
def test_no_batch_reads_from_the_device(small_config: Build, name: str) -> None:
    trainer, _ = trainer_on_device(small_config(augment={"name": name}, data={"context": 1}))
    batches = trainer.batches
    assert isinstance(batches, DeviceBatches)
    batches._move_in()
    with ReadBacks() as waits:  # the mode only sees its own thread
        assert [batches._prepare(0, step) for step in enumerate(trainer.loader.split(0))]
    assert waits.found == []

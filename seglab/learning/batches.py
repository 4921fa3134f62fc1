"""Training batches as tensors on the device, however they get there.

On a processor the loader does everything. On a GPU the slices lie in its memory if they
fit, and are augmented there; parameters are drawn one batch ahead in a thread, and
nothing waits for the device.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, TypeVar

import torch

from seglab.data.loader import Rows, TrainLoader, gather
from seglab.learning.ahead import ahead
from seglab.learning.augment.augmenter import DeviceAugmenter
from seglab.learning.augment.transform import Slices
from seglab.learning.device import Compute, network_input
from seglab.learning.resident import ResidentSlices, fits

Result = TypeVar("Result")


@dataclass(frozen=True)
class TensorBatch:
    """What a training step takes."""

    images: torch.Tensor
    """(B,C,H,W) float32, scaled for the network."""
    masks: torch.Tensor
    """(B,1,H,W) float32 in {0,1}."""
    rows: Rows
    """(B,) rows of the cache."""


class Batches(Protocol):
    """A source of training batches."""

    augmented_on: str
    """Type of the device that augments."""

    @property
    def is_resident(self) -> bool:
        """Whether slices lie on the device, whose memory :meth:`make_room` gives back."""

    def epoch(self, epoch: int) -> Iterator[TensorBatch]:
        """Yield the batches of one epoch; the same for the same seed and epoch."""

    def make_room(self) -> None:
        """Read slices from the cache from now on, and give the memory of others back."""


class HostBatches:
    """Read, augmented and scaled on the processor, in threads."""

    augmented_on = "cpu"
    is_resident = False

    def __init__(self, loader: TrainLoader, compute: Compute) -> None:
        self.loader, self.compute = loader, compute

    def epoch(self, epoch: int) -> Iterator[TensorBatch]:
        """Yield what the loader draws, prepared ahead and moved to the device."""
        steps = enumerate(self.loader.split(epoch))
        return ahead(partial(self._batch, epoch), steps, self.compute.threads)

    def _batch(self, epoch: int, step_rows: tuple[int, Rows]) -> TensorBatch:
        batch = self.loader.batch(epoch, *step_rows)
        images, masks = self.compute.images(batch.images), self.compute.masks(batch.masks)
        return TensorBatch(images, masks, batch.rows)

    def make_room(self) -> None:
        """Nothing is kept on the device."""


class DeviceBatches:
    """Augmented on the device, and read there if the training slices fit.

    Args:
        loader: decides which slices, in which order, and with which transforms.
        patients: ids of the training patients.
        compute: the device.

    Raises:
        NoDeviceVersion: one of the loader's transforms only runs on the processor.
    """

    def __init__(self, loader: TrainLoader, patients: Sequence[str], compute: Compute) -> None:
        from seglab.learning.augment.translate import translate

        self.loader, self.patients, self.compute = loader, patients, compute
        self.augmented_on = compute.device.type
        height, width = loader.cache.shape
        transforms = translate(loader.transforms, (int(height), int(width)), compute.device)
        self._augment = DeviceAugmenter(transforms, loader.config.seed, compute.device)
        self._resident: ResidentSlices | None = None
        self._may_stay = True
        self._reading = threading.Lock()
        """Held while slices are read: nobody holds on to those that are given up."""

    @property
    def is_resident(self) -> bool:
        """Whether the slices lie on the device now."""
        return self._resident is not None

    def epoch(self, epoch: int) -> Iterator[TensorBatch]:
        """Yield batches prepared ahead; the first call moves the slices to the device."""
        self._move_in()
        return ahead(partial(self._prepare, epoch), enumerate(self.loader.split(epoch)))

    def make_room(self) -> None:
        """Drop the slices from the device and read them from the cache from now on."""
        with self._reading:
            self._may_stay, self._resident = False, None
            torch.cuda.empty_cache()
            say_once("the training slices do not fit on the device: they stay in the host's cache")

    def _prepare(self, epoch: int, step_rows: tuple[int, Rows]) -> TensorBatch:
        return with_room(self, partial(self._batch, epoch, *step_rows))

    def _batch(self, epoch: int, step: int, rows: Rows) -> TensorBatch:
        with self._reading:
            slices = self._read(rows)
        images, masks = self._augment(slices, (epoch, step))
        return TensorBatch(network_input(images), masks, rows)

    def _read(self, rows: Rows) -> Slices:
        cache, context = self.loader.cache, self.loader.config.data.context
        if self._resident is not None:
            return self._resident.slices(rows, context)
        grey = self.compute.grey(gather(cache, rows, context))
        return grey, self.compute.masks(cache.masks(rows))

    def _move_in(self) -> None:
        cache, device = self.loader.cache, self.compute.device
        if self.is_resident or not self._may_stay:
            return
        with suppress(torch.OutOfMemoryError):
            if fits(cache, self.patients, device):
                self._resident = ResidentSlices(cache, self.patients, device)
        if not self.is_resident:
            self.make_room()


def with_room(batches: Batches, attempt: Callable[[], Result]) -> Result:
    """Return what ``attempt`` does; once more if memory runs out and some can be had.

    Batches are made in another thread than steps are taken, and memory may run out in
    both: room that the other has made in the meantime is room too.
    """
    was_resident = batches.is_resident
    try:
        return attempt()
    except torch.OutOfMemoryError:
        if not was_resident:
            raise
    # Outside of the handler: the error holds on to what the attempt had allocated.
    batches.make_room()
    return attempt()


def choose_batches(loader: TrainLoader, patients: Sequence[str], compute: Compute) -> Batches:
    """Augment where the network trains, unless a transform only runs on the processor."""
    if compute.device.type == "cpu":
        return HostBatches(loader, compute)
    from seglab.learning.augment.translate import NoDeviceVersion

    try:
        return DeviceBatches(loader, patients, compute)
    except NoDeviceVersion as transform:
        name = loader.config.augment.name
        say_once(f"augment.name: {name}: {transform} has no GPU version: augmenting on the CPU")
        return HostBatches(loader, compute)


@cache
def say_once(line: str) -> None:
    """Tell the user, once a process."""
    print(line, file=sys.stderr)

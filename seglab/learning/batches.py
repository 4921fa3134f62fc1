"""Training batches as tensors on the device, prepared in threads while the network trains."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import torch

from seglab.augment.transform import FRAME_MM, Augmenter, Frame, Streams, sample_streams
from seglab.data.cache import COVERED, Cache, CachedPatient
from seglab.data.loader import Rows, TrainLoader, UInt8, gather, neighbour, patient_rows
from seglab.learning.device import Compute, network_input, to_device

Item = TypeVar("Item")
Result = TypeVar("Result")
Slices = tuple[torch.Tensor, torch.Tensor]

MOST_THREADS = 8  # more would wait for the interpreter's lock
LARGEST_SHARE = 0.4  # of a GPU's free memory that training slices may take
WORKERS_PER_GPU = "SEGLAB_WORKERS_PER_GPU"  # environment: processes that divide this share
_CHUNK = 512


@dataclass(frozen=True)
class TensorBatch:
    """What a training step takes."""

    images: torch.Tensor  # (B,C,H,W) float32, scaled for the network
    masks: torch.Tensor  # (B,1,H,W) float32 in {0,1}; ``train.soft_targets``: in [0,1]
    rows: Rows  # (B,) of the cache
    patients: Sequence[str]  # (B,) whose slices they are


class Batches:
    """Reads, augments and scales what a loader draws; the number of threads changes no bit."""

    def __init__(self, loader: TrainLoader, patients: Sequence[str], compute: Compute) -> None:
        self.loader, self.compute, self.context = loader, compute, loader.config.data.context
        self.patients = [loader.cache.by_id[name] for name in patients]
        frame = frame_of(loader.cache, self.patients, self.context)
        self.augment = Augmenter(loader.config.augment.build(frame), frame)
        is_soft = loader.config.train.soft_targets
        self.read_masks = loader.cache.coverage if is_soft else loader.cache.masks
        self.all_tumour = COVERED if is_soft else 1  # the level of such a pixel

    @property
    def augmented_on(self) -> str:
        """Type of the device that augments; albumentations only runs on the processor."""
        return "cpu" if self.augment.named else self.compute.device.type

    def epoch(self, epoch: int) -> Generator[TensorBatch, None, None]:
        """Yield the batches of one epoch; the first call uploads the slices if they fit."""
        is_resident = self.resident is not None  # uploads here, not in a thread
        threads = self.compute.threads if self.augmented_on == "cpu" and not is_resident else 1
        return prefetch(partial(self._batch, epoch), enumerate(self.loader.split(epoch)), threads)

    @cached_property
    def resident(self) -> ResidentSlices | None:
        """The training slices in a GPU's memory; None where they are read from the cache."""
        rows = patient_rows(*self.patients)
        if self.augmented_on != "cuda" or not fits(self.loader.cache, rows, self.compute.device):
            return None
        device = self.compute.device
        return ResidentSlices(self.loader.cache, rows, self.context, device, self.read_masks)

    def _batch(self, epoch: int, step_rows: tuple[int, Rows]) -> TensorBatch:
        (step, rows), config = step_rows, self.loader.config
        first = step * config.train.batch_size
        streams = sample_streams(config.seed, epoch, first, len(rows))
        if self.resident is not None:
            slices = self.resident.slices(rows)
        else:
            slices = self._read(rows, streams)
        images, masks = self._augmented(slices, streams)
        cache = self.loader.cache
        owners = [cache.patients[number].patient_id for number in cache.row_patient[rows]]
        return TensorBatch(network_input(images), masks, rows, owners)

    def _read(self, rows: Rows, streams: Streams) -> Slices:
        read = gather(self.loader.cache, rows, self.context), self.read_masks(rows)
        grey, truth = self.augment.on_host(*read, streams)
        return self.compute.grey(grey), self.compute.masks(truth)

    def _augmented(self, slices: Slices, streams: Streams) -> Slices:
        images, masks = self.augment(*slices, streams)
        return images, masks / self.all_tumour

    def examples(self, row: int, count: int) -> tuple[UInt8, UInt8]:
        """Augment one slice ``count`` times: first modality and mask, both (count, H, W)."""
        rows, streams = np.full(count, row), sample_streams(0, 0, 0, count)
        images, masks = self._augmented(self._read(rows, streams), streams)
        shown = images[:, self.context], masks[:, 0]
        grey, truth = (each.round().byte().cpu().numpy() for each in shown)
        return grey, truth


def interleave(planes: Sequence[Batches], epoch: int) -> Generator[TensorBatch, None, None]:
    """Yield one epoch's batches of every plane, in an order drawn by the seed."""
    stream = np.random.default_rng([planes[0].loader.config.seed, epoch, 3])
    counts = [one.loader.batches for one in planes]
    with ExitStack() as stack:
        epochs = [stack.enter_context(closing(one.epoch(epoch))) for one in planes]
        for number in stream.permutation(np.repeat(np.arange(len(planes)), counts)):
            yield next(epochs[number])


class ResidentSlices:
    """Every slice of some rows on the device, where reading a batch is one indexed copy."""

    def __init__(
        self,
        cache: Cache,
        rows: Rows,
        context: int,
        device: torch.device,
        read_masks: Callable[[Rows], UInt8],
    ) -> None:
        self.cache, self.context, self.device = cache, context, device
        self._position = np.full(len(cache.row_patient), -1, np.int64)
        self._position[rows] = np.arange(len(rows))
        images, masks = [], []
        for start in range(0, len(rows), _CHUNK):  # the processor never holds them all
            chunk = rows[start : start + _CHUNK]
            images.append(torch.from_numpy(gather(cache, chunk, 0)).to(device))
            masks.append(torch.from_numpy(read_masks(chunk)).to(device))
        self._images, self._masks = torch.cat(images), torch.cat(masks)[:, None]

    def slices(self, rows: Rows) -> Slices:
        """Read slices with their neighbours as channels, and their masks."""
        offsets = range(-self.context, self.context + 1)
        wanted = np.stack([neighbour(self.cache, rows, offset) for offset in offsets], axis=1)
        index = to_device(torch.from_numpy(self._position[wanted]), self.device)
        images = self._images[index].permute(0, 4, 1, 2, 3)  # neighbours within a modality
        return images.flatten(1, 2).float(), self._masks[index[:, self.context]].float()


def fits(cache: Cache, rows: Rows, device: torch.device) -> bool:
    """Whether so many slices leave a GPU enough memory to train in."""
    slice_bytes = gather(cache, rows[:1], 0).size + cache.masks(rows[:1]).size
    free, _ = torch.cuda.mem_get_info(device)
    # What earlier runs left to torch's allocator is free too.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    share = LARGEST_SHARE / int(os.environ.get(WORKERS_PER_GPU, "1"))
    return bool(len(rows) * slice_bytes <= share * free)


def frame_of(cache: Cache, patients: Sequence[CachedPatient], context: int) -> Frame:
    """Describe the cached slices; their pixel is the median over the patients."""

    def pixel_mm(patient: CachedPatient) -> float:
        native_px: float = patient.box.height / cache.shape[0]
        if patient.row_mm is None:
            return native_px * FRAME_MM / max(patient.native_shape)
        return native_px * patient.row_mm

    typical_mm = float(np.median([pixel_mm(patient) for patient in patients]))
    return Frame(cache.shape, typical_mm, cache.flip_axis, 2 * context + 1)


def prefetch(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int = 1
) -> Generator[Result, None, None]:
    """Yield ``work(item)`` of every item, in order, while ``threads`` prepare those that follow.

    Items are taken in the calling thread, ``threads`` + 2 of them before the first result. An
    exception is raised here, where its result is due; leaving early waits for what is being done.
    """
    threads = min(threads, MOST_THREADS)
    torch.get_num_threads()  # fixes this thread's number, which the pool's would change
    pool = ThreadPoolExecutor(threads, "prefetch", initializer=partial(torch.set_num_threads, 1))
    prepared: deque[Future[Result]] = deque()
    try:
        for item in items:
            prepared.append(pool.submit(work, item))
            if len(prepared) > threads + 1:
                yield prepared.popleft().result()
        while prepared:
            yield prepared.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

"""Training as a generator: one ``EpochResult`` an epoch, and a state that can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged
from seglab.core.progress import progress as with_bar
from seglab.data.cache import Cache
from seglab.data.loader import TrainLoader
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import summarise
from seglab.learning.batches import TensorBatch, choose_batches, with_room
from seglab.learning.checkpoint import (
    load_state,
    load_weights,
    random_state,
    save_state,
    save_weights,
    set_random_state,
)
from seglab.learning.compiling import Forward, repays_compiling
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor, validate
from seglab.learning.optimizer import LearningRate, build_optimizer
from seglab.losses import Loss
from seglab.models import build_model, check_batch, gflops_per_image

LAST, BEST = "last.pt", "best.safetensors"
_GPU_CHECK_EVERY = 50


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to; ``metrics`` carries the names that are logged."""

    epoch: int
    metrics: dict[str, float]
    scores: Sequence[PatientScore]
    is_best: bool
    is_last: bool


@dataclass
class Progress:
    """How far a run has come; all of it is in the checkpoint."""

    epoch: int = 0
    best_dice: float = -math.inf
    best_epoch: int = 0
    reference_dice: float = -math.inf
    """Last Dice that counted as better, by more than ``min_delta``."""
    waited: int = 0
    train_seconds: float = 0.0
    images: int = 0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One run in training: network, optimizer, learning rate and progress.

    Made from a config alone, so that a resumed run starts from the same place;
    :meth:`save` and :meth:`resume` carry the state through a folder.
    """

    def __init__(
        self, config: RunConfig, cache: Cache, train: Sequence[str], compute: Compute
    ) -> None:
        self.config, self.cache, self.compute = config, cache, compute
        torch.manual_seed(config.seed)
        self.channels = config.input_channels
        hw = cache.shape
        network = build_model(config.model, self.channels, hw)
        self.network = network.to(compute.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.network, config.optim, compute.device)
        self.loss: Loss = config.loss.build()
        self.loader = TrainLoader(cache, train, config)
        smallest = min(config.train.batch_size, self.loader.samples)
        check_batch(config.model.name, network, self.channels, hw, smallest)
        self.batches = choose_batches(self.loader, train, compute)
        self.forward = Forward(self.network, compiles=self._repays_compiling(hw))
        warmup = min(config.schedule.warmup_epochs / config.train.epochs, 0.5)
        self.rate = LearningRate(config.schedule, config.optim.lr, warmup)
        self.progress = Progress()

    def _repays_compiling(self, hw: tuple[int, int]) -> bool:
        if self.compute.device.type != "cuda":
            return False
        train = self.config.train
        images, steps = (train.epochs * each for each in (self.loader.samples, self.loader.batches))
        gflop = images * 3 * gflops_per_image(self.network, self.channels, hw)
        return repays_compiling(gflop, steps, train.max_seconds)

    @property
    def predictor(self) -> Predictor:
        """The network as it is now."""
        return Predictor(self.network, self.compute, self.config.data.context)

    def save(self, folder: Path, *, is_best: bool) -> None:
        """Write the state that :meth:`resume` needs, and the weights if they are the best."""
        if is_best:
            about = {"epoch": str(self.progress.epoch), "config_hash": self.config.hash()}
            save_weights(folder / BEST, self.network, about)
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state(),
            "progress": vars(self.progress),
            **random_state(self.compute.device),
        }
        save_state(folder / LAST, state)

    def resume(self, folder: Path) -> bool:
        """Go on from what :meth:`save` left in ``folder``, if anything."""
        state = load_state(folder / LAST)
        if state is None:
            return False
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load(state["rate"])
        self.progress = Progress(**state["progress"])
        set_random_state(state, self.compute.device)
        return True

    def load_best(self, folder: Path) -> None:
        """Take the weights of the best epoch."""
        load_weights(folder / BEST, self.network)


def fit(trainer: Trainer, validation: Sequence[str]) -> Iterator[EpochResult]:
    """Train until the epochs, the patience or the seconds are used up.

    Continues from ``trainer.progress``. The caller logs and saves each result
    before it asks for the next.

    Yields:
        One result an epoch; the last one has ``is_last``.

    Raises:
        TrainingDiverged: a loss is not finite; names the step and the batch's patients.
    """
    progress, config = trainer.progress, trainer.config
    while not progress.stopped:
        started, before = time.perf_counter(), progress.train_seconds
        train_loss = train_epoch(trainer)
        seconds = time.perf_counter() - started
        progress.train_seconds = before + seconds
        scores, val_loss = validate(
            trainer.predictor, trainer.cache, validation, config.evaluation.threshold, trainer.loss
        )
        summary = summarise(scores)
        metrics = {
            "train/loss": train_loss,
            "val/loss": val_loss,
            "val/dice": summary["dice"],
            "val/iou": summary["iou"],
            "lr": trainer.rate.current,
            "time/train_seconds": seconds,
            "time/val_seconds": time.perf_counter() - started - seconds,
        }
        is_best = _advance(trainer, metrics)
        yield EpochResult(progress.epoch, metrics, scores, is_best, progress.stopped)


def train_epoch(trainer: Trainer) -> float:
    """Run the steps of the next epoch; return the mean loss over its samples."""
    trainer.network.train()
    # On a GPU reading a loss waits for the device, so losses are read in bundles.
    bundle = 1 if trainer.compute.device.type == "cpu" else _GPU_CHECK_EVERY
    losses: list[torch.Tensor] = []
    rows: list[np.ndarray[Any, Any]] = []
    total, seen, step = 0.0, 0, -1
    title = f"epoch {trainer.progress.epoch + 1}/{trainer.config.train.epochs}"
    batches = with_bar(_in_time(trainer), title, trainer.loader.batches, "batch")
    for step, batch in enumerate(batches):
        trainer.rate.apply(trainer.optimizer, _share_done(trainer, step))
        losses.append(_step(trainer, batch))
        rows.append(batch.rows)
        seen += len(batch.rows)
        if len(losses) == bundle:
            total += _read_losses(trainer, losses, rows, step + 1 - len(losses))
            losses, rows = [], []
    total += _read_losses(trainer, losses, rows, step + 1 - len(losses))
    trainer.progress.images += seen
    return total / seen


def _in_time(trainer: Trainer) -> Iterator[TensorBatch]:
    """Batches of the next epoch, at least one, until ``train.max_seconds`` are used up."""
    progress, limit = trainer.progress, trainer.config.train.max_seconds
    started, before = time.perf_counter(), progress.train_seconds
    for step, batch in enumerate(trainer.batches.epoch(progress.epoch)):
        if step and limit is not None and progress.train_seconds >= limit:
            return
        yield batch
        progress.train_seconds = before + time.perf_counter() - started


def _step(trainer: Trainer, batch: TensorBatch) -> torch.Tensor:
    """Take a step; once more if the device has no memory left and some can be had."""
    optimizer = trainer.optimizer
    is_first = not optimizer.state

    def attempt() -> torch.Tensor:
        if is_first:  # memory may run out between two moments, which are only made together
            optimizer.state.clear()
        return train_step(trainer, batch)

    return with_room(trainer.batches, attempt)


def train_step(trainer: Trainer, batch: TensorBatch) -> torch.Tensor:
    """Move the weights by one batch; return its loss, which nothing has waited for."""
    optimizer, clip = trainer.optimizer, trainer.config.optim.grad_clip
    is_full = len(batch.rows) == trainer.config.train.batch_size
    with trainer.compute.autocast():
        logits = trainer.forward(batch.images, is_full=is_full)
    loss = trainer.loss(logits.float(), batch.masks)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(trainer.network.parameters(), clip)
    optimizer.step()
    return loss.detach()


def _read_losses(
    trainer: Trainer,
    losses: Sequence[torch.Tensor],
    rows: Sequence[np.ndarray[Any, Any]],
    first_step: int,
) -> float:
    values = torch.stack(list(losses)).cpu().tolist() if losses else []
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            owners = np.unique(trainer.cache.row_patient[rows[offset]])
            names = ", ".join(trainer.cache.patients[i].patient_id for i in owners)
            raise TrainingDiverged(
                f"loss is {value} at epoch {trainer.progress.epoch + 1}, "
                f"step {first_step + offset + 1}, in a batch of {names}"
            )
    return float(sum(value * len(part) for value, part in zip(values, rows, strict=True)))


def _share_done(trainer: Trainer, step: int) -> float:
    """Share of the training that is over, by steps or, if closer to its end, by seconds."""
    train, progress = trainer.config.train, trainer.progress
    done = (progress.epoch + step / trainer.loader.batches) / train.epochs
    if train.max_seconds is not None:
        done = max(done, progress.train_seconds / train.max_seconds)
    return min(done, 1.0)


def _advance(trainer: Trainer, metrics: dict[str, float]) -> bool:
    """Count the epoch in, decide whether it is the best so far and whether it was the last."""
    progress, train = trainer.progress, trainer.config.train
    # A validation part without tumour has no Dice; its last epoch counts as the best.
    dice = metrics["val/dice"] if math.isfinite(metrics["val/dice"]) else progress.best_dice
    is_best = progress.epoch == 0 or dice > progress.best_dice or math.isinf(dice)
    is_better = progress.epoch == 0 or dice > progress.reference_dice + train.min_delta
    trainer.rate.listen(dice)
    progress.epoch += 1
    progress.waited = 0 if is_better else progress.waited + 1
    if is_better:
        progress.reference_dice = dice
    if is_best:
        progress.best_dice, progress.best_epoch = dice, progress.epoch
    progress.stopped = (
        progress.epoch >= train.epochs
        or (train.patience is not None and progress.waited >= train.patience)
        or (train.max_seconds is not None and progress.train_seconds >= train.max_seconds)
    )
    progress.history.append({"epoch": progress.epoch, **metrics})
    return is_best

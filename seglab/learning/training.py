"""Training as a generator: one ``EpochResult`` an epoch, and a state that can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.machine import progress as with_bar
from seglab.data.cache import Cache
from seglab.data.loader import Rows, TrainLoader
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import summarise
from seglab.learning.batches import Batches, TensorBatch
from seglab.learning.checkpoint import (
    load_state,
    load_weights,
    random_state,
    save_state,
    save_weights,
    set_random_state,
)
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor, validate
from seglab.learning.optimizer import LearningRate, build_optimizer
from seglab.losses import Loss
from seglab.models import build_model, check_batch

LAST, WEIGHTS = "last.pt", "weights.safetensors"
"""Files of a run in training: all that resuming needs, and the weights of the best epoch."""
_GPU_CHECK_EVERY = 50
"""Steps. Reading a loss waits for a GPU, so losses are read in bundles."""


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
        self.loader = TrainLoader(cache, train, config)
        self.batches = Batches(self.loader, train, compute)
        self.channels, hw = config.input_channels, self.batches.augment.frame.hw
        network = build_model(config.model, self.channels, hw)
        smallest = min(config.train.batch_size, self.loader.samples)
        check_batch(config.model.name, network, self.channels, hw, smallest)
        self.network = network.to(compute.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.network, config.optim, compute.device)
        self.loss: Loss = config.loss.build()
        warmup = min(config.schedule.warmup_epochs / config.train.epochs, 0.5)
        self.rate = LearningRate(config.schedule, config.optim.lr, warmup)
        self.progress = Progress()
        self.compiled = compiled(self.network) if config.train.compile else None

    @property
    def predictor(self) -> Predictor:
        """The network as it is now."""
        return Predictor(self.network, self.compute, self.config.data.context)

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights are kept, of those so far."""
        keeps_best = self.config.train.keep == "best"
        return self.progress.best_epoch if keeps_best else self.progress.epoch

    def save(self, folder: Path) -> None:
        """Write the state that :meth:`resume` needs, and the weights if the best are kept."""
        if self.config.train.keep == "best" and self.kept_epoch == self.progress.epoch:
            self.save_kept(folder)
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

    def save_kept(self, folder: Path) -> None:
        """Write the weights as they are now to ``weights.safetensors``."""
        about = {"epoch": str(self.kept_epoch), "config_hash": self.config.hash()}
        save_weights(folder / WEIGHTS, self.network, about)

    def load_kept(self, folder: Path) -> None:
        """Take the weights that are kept: those of the last epoch are already here."""
        if self.config.train.keep == "best":
            load_weights(folder / WEIGHTS, self.network)


def compiled(network: nn.Module) -> Any:
    """Compile a network for the one shape of full batches; the weights stay its own.

    What is compiled is kept by code: earlier runs of the process would count as other shapes.
    """
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)


def fit(trainer: Trainer, validation: Sequence[str]) -> Iterator[EpochResult]:
    """Train until the epochs, the patience or the seconds are used up.

    Continues from ``trainer.progress``. The caller logs and saves each result
    before it asks for the next.

    Yields:
        One result an epoch; the last one has ``is_last``.

    Raises:
        TrainingDiverged: a loss is not finite; names the step and the batch's patients.
        UserError: ``train.compile`` is set and the network cannot be compiled.
    """
    progress, config = trainer.progress, trainer.config
    while not progress.stopped:
        started = time.perf_counter()
        train_loss = train_epoch(trainer)
        trained = time.perf_counter()
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
            "time/train_seconds": trained - started,
            "time/val_seconds": time.perf_counter() - trained,
        }
        end_epoch(trainer, metrics)
        is_best = progress.best_epoch == progress.epoch
        yield EpochResult(progress.epoch, metrics, scores, is_best, progress.stopped)


def train_epoch(trainer: Trainer) -> float:
    """Run the steps of the next epoch; return the mean loss over its samples."""
    progress, train, loader = trainer.progress, trainer.config.train, trainer.loader
    bundle = 1 if trainer.compute.device.type == "cpu" else _GPU_CHECK_EVERY
    unread: list[tuple[torch.Tensor, Rows]] = []
    total, seen = 0.0, 0
    started, before = time.perf_counter(), progress.train_seconds
    title = f"epoch {progress.epoch + 1}/{train.epochs}"
    trainer.network.train()
    with closing(trainer.batches.epoch(progress.epoch)) as batches:
        for step, batch in enumerate(with_bar(batches, title, loader.batches, "batch")):
            trainer.rate.apply(trainer.optimizer, _share_done(trainer, step))
            unread.append((train_step(trainer, batch), batch.rows))
            seen += len(batch.rows)
            progress.train_seconds = before + time.perf_counter() - started
            is_over = progress.train_seconds >= (train.max_seconds or math.inf)
            if len(unread) == bundle or is_over or step + 1 == loader.batches:
                total += _read_losses(trainer, unread, step)
                unread = []
            if is_over:
                break
    progress.train_seconds = before + time.perf_counter() - started
    progress.images += seen
    return total / seen


def train_step(trainer: Trainer, batch: TensorBatch) -> torch.Tensor:
    """Move the weights by one batch; return its loss, which nothing has waited for."""
    optimizer, clip = trainer.optimizer, trainer.config.optim.grad_clip
    with trainer.compute.autocast():
        logits = _forward(trainer, batch.images)
    loss = trainer.loss(logits.float(), batch.masks)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(trainer.network.parameters(), clip)
    optimizer.step()
    return loss.detach()


def _forward(trainer: Trainer, images: torch.Tensor) -> torch.Tensor:
    """Compute logits; a smaller last batch is not worth a second compilation."""
    logits: torch.Tensor
    if trainer.compiled is None or len(images) < trainer.config.train.batch_size:
        logits = trainer.network(images)
        return logits
    from torch._dynamo.exc import TorchDynamoException

    try:
        logits = trainer.compiled(images)
    except TorchDynamoException as error:
        cause = " ".join(str(error).splitlines()[:2])  # the compiler, then what went wrong
        raise UserError(f"train.compile: torch.compile does not work here: {cause}") from None
    return logits


def _read_losses(
    trainer: Trainer, unread: Sequence[tuple[torch.Tensor, Rows]], last_step: int
) -> float:
    """Sum losses over their samples; the last is that of ``last_step``."""
    values = torch.stack([loss for loss, _ in unread]).cpu().tolist()
    total = 0.0
    for back, value, (_, rows) in zip(range(len(values), 0, -1), values, unread, strict=True):
        if not math.isfinite(value):
            owners = np.unique(trainer.cache.row_patient[rows])
            names = ", ".join(trainer.cache.patients[i].patient_id for i in owners)
            raise TrainingDiverged(
                f"loss is {value} at epoch {trainer.progress.epoch + 1}, "
                f"step {last_step + 2 - back}, in a batch of {names}"
            )
        total += value * len(rows)
    return total


def _share_done(trainer: Trainer, step: int) -> float:
    """Share of the training that is over, by steps or, if closer to its end, by seconds."""
    train, progress = trainer.config.train, trainer.progress
    done = (progress.epoch + step / trainer.loader.batches) / train.epochs
    if train.max_seconds is not None:
        done = max(done, progress.train_seconds / train.max_seconds)
    return min(done, 1.0)


def end_epoch(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Count the epoch in: whether it is the best so far, and whether it was the last."""
    progress, train = trainer.progress, trainer.config.train
    # A validation part without tumour has no Dice; its last epoch counts as the best.
    dice = metrics["val/dice"] if math.isfinite(metrics["val/dice"]) else progress.best_dice
    is_first = progress.epoch == 0
    progress.epoch += 1
    if is_first or dice > progress.best_dice or math.isinf(dice):
        progress.best_dice, progress.best_epoch = dice, progress.epoch
    if is_first or dice > progress.reference_dice + train.min_delta:
        progress.reference_dice, progress.waited = dice, 0
    else:
        progress.waited += 1
    trainer.rate.after_epoch(dice)
    progress.stopped = (
        progress.epoch >= train.epochs
        or (train.patience is not None and progress.waited >= train.patience)
        or (train.max_seconds is not None and progress.train_seconds >= train.max_seconds)
    )
    progress.history.append({"epoch": progress.epoch, **metrics})

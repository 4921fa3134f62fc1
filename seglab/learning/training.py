"""Training as a generator of each epoch's metrics, and a state that can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.machine import progress as with_bar
from seglab.data.cache import Cache
from seglab.data.loader import TrainLoader
from seglab.evaluation.scores import summarise
from seglab.learning.batches import Batches, TensorBatch, interleave
from seglab.learning.checkpoint import load_state, load_weights, save_state, save_weights
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor, validate
from seglab.learning.optimizer import build_optimizer, rate_factor
from seglab.losses import Loss
from seglab.models.build import build_model

LAST, WEIGHTS = "last.pt", "weights.safetensors"
"""Files of a run in training: all that resuming needs, and the weights of the best epoch."""
GPU_READ_EVERY = 50  # Steps. Reading a loss waits for a GPU, so several are read at once.


@dataclass
class Progress:
    """How far a run has come; all of it is in the checkpoint."""

    history: list[dict[str, float]] = field(default_factory=list)
    """Of each epoch: its number, from 1, and its metrics."""
    train_seconds: float = 0.0
    images: int = 0

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    @property
    def dices(self) -> list[float]:
        """Validation Dice of each epoch; NaN where no patient has a tumour."""
        return [row["val/dice"] for row in self.history]

    @property
    def best_epoch(self) -> int:
        """The epoch of the highest Dice, the first of equals; the last where none has one."""
        known = [dice for dice in self.dices if math.isfinite(dice)]
        return self.dices.index(max(known)) + 1 if known else self.epoch

    def waited(self, min_delta: float) -> int:
        """Epochs since the last that was better, by more than ``min_delta``, than that before."""
        reference, waited = -math.inf, -1
        for dice in self.dices:
            is_better = dice > reference + min_delta
            reference, waited = (dice, 0) if is_better else (reference, waited + 1)
        return waited


class Trainer:
    """One run in training: network, optimizer and progress, made from a config."""

    def __init__(
        self, config: RunConfig, cache: Cache, train: Sequence[str], compute: Compute
    ) -> None:
        self.config, self.cache, self.compute = config, cache, compute
        self.channels = config.input_channels
        further = [(one, [name for name in train if name in one.by_id]) for one in cache.further]
        planes = [(cache, train), *((one, names) for one, names in further if names)]
        for one, _ in planes[1:]:  # refuses slices that the network does not take
            build_model(config.model, self.channels, one.shape, pretrained=False)
        torch.manual_seed(config.seed)
        self.planes = [
            Batches(TrainLoader(one, names, config, (number, len(planes))), names, compute)
            for number, (one, names) in enumerate(planes)
        ]
        self.batches, self.loader = self.planes[0], self.planes[0].loader
        self.samples = sum(one.loader.samples for one in self.planes)
        self.steps = sum(one.loader.batches for one in self.planes)
        smallest = min(config.train.batch_size, *(one.loader.samples for one in self.planes))
        network = build_model(config.model, self.channels, cache.shape, smallest_batch=smallest)
        self.network = network.to(compute.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.network, config.optim, compute.device)
        self.loss: Loss = config.loss.build()
        self.scaler = torch.amp.GradScaler(  # of losses too small for fp16
            compute.device.type, enabled=compute.precision == "fp16"
        )
        self.average = AveragedModel(self.network, use_buffers=True) if config.train.ema else None
        self.progress = Progress()
        self.compiled = compiled(self.network) if config.train.compile else None

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and kept: as it is now, or its moving average."""
        return self.network if self.average is None else self.average.module

    @property
    def predictor(self) -> Predictor:
        """The judged network."""
        return Predictor(self.judged, self.compute, self.config.data.context)

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights are kept, of those so far."""
        return self.progress.best_epoch if self.keeps_best else self.progress.epoch

    @property
    def keeps_best(self) -> bool:
        """Whether the best weights are kept: those of the last are past it where patience ended."""
        return self.config.train.keep == "best" or self.is_out_of_patience

    @property
    def is_out_of_patience(self) -> bool:
        """Whether ``train.patience`` epochs brought nothing better."""
        train = self.config.train
        return self.progress.waited(train.min_delta) >= (train.patience or math.inf)

    @property
    def is_over(self) -> bool:
        """Whether epochs, patience or seconds are used up."""
        train, progress = self.config.train, self.progress
        return (
            progress.epoch >= train.epochs
            or self.is_out_of_patience
            or progress.train_seconds >= (train.max_seconds or math.inf)
        )

    def save(self, folder: Path) -> None:
        """Write the state that :meth:`resume` needs, and the weights if the best may be kept."""
        train, progress = self.config.train, self.progress
        if (train.keep == "best" or train.patience) and progress.best_epoch == progress.epoch:
            self.save_kept(folder)
        device = self.compute.device
        state = {
            "network": self.network.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": vars(self.progress),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }
        save_state(folder / LAST, state)

    def resume(self, folder: Path) -> bool:
        """Go on from what :meth:`save` left in ``folder``, if anything."""
        state = load_state(folder / LAST)
        if state is None:
            return False
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where another precision was trained in
            self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random"])
        if self.compute.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.compute.device)
        return True

    def save_kept(self, folder: Path) -> None:
        """Write the weights as they are now to ``weights.safetensors``."""
        about = {"epoch": str(self.kept_epoch), "config_hash": self.config.hash()}
        save_weights(folder / WEIGHTS, self.judged, about)

    def load_kept(self, folder: Path) -> None:
        """Take the weights that are kept: those of the last epoch are already here."""
        if self.keeps_best:
            load_weights(folder / WEIGHTS, self.judged)


def fit(trainer: Trainer, validation: Sequence[str]) -> Iterator[dict[str, float]]:
    """Train on from ``trainer.progress`` until epochs, patience or seconds are used up.

    Yields the metrics of each epoch, by the names that are logged; the caller logs and saves them
    before it asks for the next.
    Raises TrainingDiverged where a loss is not finite; UserError where nothing can be compiled.
    """
    progress, threshold = trainer.progress, trainer.config.evaluation.threshold
    while not trainer.is_over:
        started = time.perf_counter()
        train_loss = train_epoch(trainer)
        trained = time.perf_counter()
        predictor, cache = trainer.predictor, trainer.cache
        scores, val_loss = validate(
            predictor, cache, validation, threshold, loss=trainer.loss, surface=False
        )
        summary = summarise(scores)
        metrics = {
            "train/loss": train_loss,
            "val/loss": val_loss,
            "val/dice": summary["dice"],
            "val/iou": summary["iou"],
            "lr": trainer.optimizer.param_groups[0]["lr"],
            "time/train_seconds": trained - started,
            "time/val_seconds": time.perf_counter() - trained,
        }
        progress.history.append({"epoch": progress.epoch + 1, **metrics})
        yield metrics


def train_epoch(trainer: Trainer) -> float:
    """Run the steps of the next epoch; return the mean loss over its samples."""
    progress, train, steps = trainer.progress, trainer.config.train, trainer.steps
    read_every = 1 if trainer.compute.device.type == "cpu" else GPU_READ_EVERY
    unread: list[tuple[Tensor, Sequence[str]]] = []
    total, seen, started = 0.0, 0, time.perf_counter() - progress.train_seconds
    title = f"epoch {progress.epoch + 1}/{train.epochs}"
    trainer.network.train()
    with closing(interleave(trainer.planes, progress.epoch)) as batches:
        for step, batch in enumerate(with_bar(batches, title, steps, "batch")):
            set_rate(trainer, step)
            unread.append((train_step(trainer, batch), batch.patients))
            seen += len(batch.rows)
            progress.train_seconds = time.perf_counter() - started
            is_over = progress.train_seconds >= (train.max_seconds or math.inf)
            if len(unread) == read_every or is_over or step + 1 == steps:
                total += sum_losses(trainer, unread, step)
                unread.clear()
            if is_over:
                break
    progress.train_seconds = time.perf_counter() - started
    progress.images += seen
    return total / seen


def set_rate(trainer: Trainer, step: int) -> None:
    """Set the learning rate by the share of steps or, if closer to its end, of seconds."""
    config, progress = trainer.config, trainer.progress
    train, schedule = config.train, config.schedule
    done = (progress.epoch + step / trainer.steps) / train.epochs
    if train.max_seconds is not None:
        done = min(max(done, progress.train_seconds / train.max_seconds), 1.0)
    warmup = min(schedule.warmup_epochs / train.epochs, 0.5)
    factor = rate_factor(schedule, done, warmup=warmup, dices=progress.dices)
    for group in trainer.optimizer.param_groups:
        group["lr"] = config.optim.lr * factor


def train_step(trainer: Trainer, batch: TensorBatch) -> Tensor:
    """Move the weights by one batch; return its loss, which nothing has waited for."""
    optimizer, scaler, clip = trainer.optimizer, trainer.scaler, trainer.config.optim.grad_clip
    with trainer.compute.autocast():
        logits = _forward(trainer, batch.images)
    loss = mean_over_scales(trainer.loss, logits.float(), batch.masks)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trainer.network.parameters(), clip)
    scaler.step(optimizer)
    scaler.update()
    if trainer.average is not None:
        update_average(trainer.average, trainer.network, trainer.config.train.ema or 0.0)
    return loss.detach()


def mean_over_scales(loss: Loss, logits: Tensor, masks: Tensor) -> Tensor:
    """Loss of logits (B,K,H,W), the K scales of deep supervision weighted 1, 1/2, 1/4, …"""
    weights = [0.5**k for k in range(logits.shape[1])]
    losses = [loss(one, masks) for one in logits.chunk(len(weights), dim=1)]
    total = sum(weight * one for weight, one in zip(weights[1:], losses[1:], strict=True))
    return (losses[0] + total) / sum(weights)


def update_average(average: AveragedModel, network: nn.Module, decay: float) -> None:
    """Move the average; its decay rises with the steps, so that the random start is forgotten."""
    steps = int(average.n_averaged)
    rising = min(decay, (1 + steps) / (10 + steps))
    average.multi_avg_fn = get_ema_multi_avg_fn(rising)  # type: ignore[no-untyped-call]
    average.update_parameters(network)


def compiled(network: nn.Module) -> Any:
    """Compile a network for the one shape of full batches; the weights stay its own.

    What is compiled is kept by code: earlier runs of the process would count as other shapes.
    """
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)


def _forward(trainer: Trainer, images: Tensor) -> Tensor:
    """Compute logits; a last batch of another size is not worth a second compilation."""
    logits: Tensor
    if trainer.compiled is None or len(images) != trainer.config.train.batch_size:
        logits = trainer.network(images)
        return logits
    from torch._dynamo.exc import TorchDynamoException

    try:
        logits = trainer.compiled(images)
    except TorchDynamoException as error:
        cause = " ".join(str(error).splitlines()[:2])  # the compiler, then what went wrong
        raise UserError(f"train.compile: torch.compile does not work here: {cause}") from None
    return logits


def sum_losses(
    trainer: Trainer, unread: Sequence[tuple[Tensor, Sequence[str]]], last_step: int
) -> float:
    """Sum losses over their samples, of which the patients are given; the last of ``last_step``."""
    values: list[float] = torch.stack([loss for loss, _ in unread]).cpu().tolist()
    for i, (value, (_, patients)) in enumerate(zip(values, unread, strict=True)):
        if not math.isfinite(value):
            names = ", ".join(dict.fromkeys(patients))
            at = f"epoch {trainer.progress.epoch + 1}, step {last_step + 2 - len(values) + i}"
            raise TrainingDiverged(f"loss is {value} at {at}, in a batch of {names}")
    return sum(value * len(patients) for value, (_, patients) in zip(values, unread, strict=True))

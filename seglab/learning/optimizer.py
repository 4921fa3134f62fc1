"""The optimizer, and the learning rate as a function of the share of training that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from seglab.core.config import Optim, Schedule


def build_optimizer(
    network: nn.Module, config: Optim, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimizer; weight decay spares biases and normalisation weights."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    spared = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    fused = device.type in {"cpu", "cuda"}
    if config.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=fused,
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=fused)


@dataclass
class LearningRate:
    """Sets the rate before each step; ``plateau`` also follows the validation Dice."""

    config: Schedule
    base: float
    warmup: float
    """Share of the training that is warm-up."""
    drops: int = 0
    best: float = -math.inf
    waited: int = 0
    current: float = field(default=0.0)

    def apply(self, optimizer: torch.optim.Optimizer, done: float) -> None:
        """Set the rate for the step that starts when the share ``done`` (0 to 1) is over."""
        self.current = self.base * self.factor(done)
        for group in optimizer.param_groups:
            group["lr"] = self.current

    def factor(self, done: float) -> float:
        """Multiple of the base rate at the share ``done`` of the training.

        cosine: linear warm-up, then half a cosine (Loshchilov & Hutter 2017) down to
        ``final_lr_fraction``. one_cycle: cosine up from 1/25 over 30 %, then down
        (Smith & Topin 2018). plateau: ``factor`` to the power of the drops so far.
        """
        last = self.config.final_lr_fraction
        if self.config.name == "one_cycle":
            if done < 0.3:
                return _cosine(1 / 25, 1.0, done / 0.3)
            return _cosine(1.0, last, (done - 0.3) / 0.7)
        if self.config.name == "plateau":
            return max(self.config.factor**self.drops, last)
        rise = min(1.0, (done + 1e-3) / (self.warmup + 1e-3))
        if self.config.name == "constant" or rise < 1:
            return rise
        return _cosine(1.0, last, (done - self.warmup) / max(1 - self.warmup, 1e-9))

    def after_epoch(self, val_dice: float) -> None:
        """Tell the schedule an epoch's validation Dice."""
        if val_dice > self.best:
            self.best, self.waited = val_dice, 0
            return
        self.waited += 1
        if self.waited > self.config.patience:
            self.drops, self.waited = self.drops + 1, 0

    def state(self) -> dict[str, float]:
        """What a checkpoint must hold to go on."""
        return {"drops": self.drops, "best": self.best, "waited": self.waited}

    def load(self, state: dict[str, float]) -> None:
        """Go on from ``state``."""
        self.drops, self.best, self.waited = (
            int(state["drops"]),
            state["best"],
            int(state["waited"]),
        )


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))

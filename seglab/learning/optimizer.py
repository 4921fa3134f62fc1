"""The optimizer, and the learning rate as a function of the share of training that is done."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
        momentum = config.momentum
        return torch.optim.SGD(groups, config.lr, momentum, nesterov=momentum > 0, fused=fused)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=fused)


def rate_factor(
    schedule: Schedule, done: float, *, warmup: float = 0.0, dices: Sequence[float] = ()
) -> float:
    """Multiple of the base learning rate when the share ``done`` (0 to 1) of a training is over.

    cosine: linear rise over the share ``warmup``, then half a cosine (Loshchilov & Hutter 2017)
    down to ``final_lr_fraction``. one_cycle: cosine up from 1/25 over 30 %, then down (Smith &
    Topin 2018). plateau: ``factor`` to the power of the drops in ``dices``, of each epoch so far.
    """
    last = schedule.final_lr_fraction
    if schedule.name == "one_cycle":
        if done < 0.3:
            return _cosine(1 / 25, 1.0, done / 0.3)
        return _cosine(1.0, last, (done - 0.3) / 0.7)
    if schedule.name == "plateau":
        return max(schedule.factor ** _drops(dices, schedule.patience), last)
    rise = min(1.0, (done + 1e-3) / (warmup + 1e-3))
    if schedule.name == "constant" or rise < 1:
        return rise
    return _cosine(1.0, last, (done - warmup) / max(1 - warmup, 1e-9))


def _drops(dices: Sequence[float], patience: int) -> int:
    """Count the steps down: one after each ``patience`` + 1 epochs without a new best Dice."""
    best, waited, drops = -math.inf, 0, 0
    for dice in dices:
        waited = 0 if dice > best else waited + 1
        best = max(best, dice)
        if waited > patience:
            drops, waited = drops + 1, 0
    return drops


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))

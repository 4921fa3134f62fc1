"""Learning rates against closed forms and torch's own schedulers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from seglab.core.config import Optim, Schedule
from seglab.learning.optimizer import build_optimizer, rate_factor


def factor(done: float, *, warmup: float = 0.0, dices: Sequence[float] = (), **block: object):
    return rate_factor(Schedule.model_validate(block), done, warmup=warmup, dices=dices)


def test_cosine_is_half_a_cosine() -> None:
    for done in (0.0, 0.25, 0.5, 0.9, 1.0):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
        assert factor(done, name="cosine", final_lr_fraction=0.1) == pytest.approx(expected)


def test_one_cycle_equals_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    steps = 101
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.5, total_steps=steps, pct_start=0.3, final_div_factor=4, div_factor=25
    )
    # torch counts the rise as 0.3 · steps - 1 steps and the fall as the rest.
    rise = 0.3 * steps - 1
    for step in range(steps):
        done = 0.3 * step / rise if step <= rise else 0.3 + 0.7 * (step - rise) / (steps - 1 - rise)
        found = 0.5 * factor(done, name="one_cycle", final_lr_fraction=1 / 100)
        assert found == pytest.approx(torchs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        if step + 1 < steps:
            torchs.step()


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_equals_torch(patience: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience, threshold=0.0
    )
    block = {"name": "plateau", "factor": 0.5, "patience": patience, "final_lr_fraction": 0.0}
    dices: list[float] = []
    for dice in (0.1, 0.3, 0.3, 0.2, 0.4, 0.4, 0.4, 0.39, 0.38, 0.5, 0.1, 0.1, 0.1, 0.1):
        torchs.step(dice)
        dices.append(dice)
        found = 0.5 * factor(0.5, dices=dices, **block)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"])


def test_warm_up_rises_in_a_line_to_the_full_rate() -> None:
    factors = [factor(done, name="constant", warmup=0.2) for done in (0, 0.05, 0.1, 0.2, 0.9)]
    assert factors[0] < 0.01
    assert factors[2] - factors[1] == pytest.approx(0.05 / 0.201)
    assert factors[3:] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_every_parameter_is_optimised_once_and_vectors_do_not_decay(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    config = Optim.model_validate({"name": name, "weight_decay": 0.1})
    groups = build_optimizer(network, config, torch.device("cpu")).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])

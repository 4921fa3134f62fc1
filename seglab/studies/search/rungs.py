"""The pruner that a search takes by default: two looks at a trial."""

from __future__ import annotations

import math

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

_SECOND_LOOK = 2 / 3
_KEPT = (1 / 3, 1 / 2)
"""Shares that go on: of all at the first look, of the rest at the second."""


class RungPruner(BasePruner):
    """Looks at a trial's best Dice so far, after the warm-up and at two thirds of its epochs.

    Between the two a one-cycle rate is past its peak, and networks that will end best are
    often the worst: looked at after each epoch, as a median does, they are given up there.
    """

    def __init__(self, first: int, epochs: int) -> None:
        second = math.ceil(_SECOND_LOOK * epochs)
        self._kept = {second: _KEPT[1]} | {first: _KEPT[0]}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Say whether ``trial`` is too low among all that came as far."""
        epoch = trial.last_step
        if epoch is None or epoch not in self._kept:
            return False
        own = best_until(trial, epoch)
        others = [
            best_until(other, epoch)
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and epoch in other.intermediate_values
        ]
        places = max(1, math.floor(self._kept[epoch] * (len(others) + 1) + 0.5))
        return sum(other > own for other in others) >= places


def best_until(trial: FrozenTrial, epoch: int) -> float:
    """Highest Dice of a trial up to ``epoch``."""
    return max(dice for step, dice in trial.intermediate_values.items() if step <= epoch)

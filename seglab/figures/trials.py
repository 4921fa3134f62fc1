"""The trials of a search as its pictures need them: rows, ranks, scales, the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COSTS: Mapping[str, str] = {
    "train_seconds": "training time, s",
    "parameters": "network parameters, millions",
}
"""What the axis of each second objective says."""
_MOST_KEYS = 8


@dataclass(frozen=True)
class TrialRow:
    """One trial that ended."""

    number: int
    state: str
    """``complete``, ``pruned`` or ``failed``."""
    values: tuple[float, ...]
    """Validation Dice, and the second objective if there is one; of a pruned one its last Dice."""
    params: Mapping[str, Any]
    curve: tuple[tuple[int, float], ...]
    """(epoch, validation Dice)."""
    seconds: float
    run_id: str
    is_base: bool
    error: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Importance:
    """How much of the spread of Dice one evaluator lays at each key's door; adds up to 1."""

    evaluator: str
    shares: Mapping[str, float]
    note: str = ""
    """Why there is none, where there is none."""


def rank_curve(row: TrialRow, rows: Sequence[TrialRow]) -> list[tuple[int, int]]:
    """Rank of a trial (1 is best) at each of its epochs, by its best Dice until then."""
    tops = {other.number: _running_best(other) for other in rows}
    ranked = []
    for epoch, own in _running_best(row).items():
        better = sum(top[epoch] > own for top in tops.values() if epoch in top)
        ranked.append((epoch, better + 1))
    return ranked


def _running_best(row: TrialRow) -> dict[int, float]:
    best, result = -np.inf, {}
    for epoch, dice in row.curve:
        best = max(best, dice)
        result[epoch] = best
    return result


def pareto_front(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Trials with a higher Dice than every one that costs as little, cheapest first."""
    front: list[TrialRow] = []
    for row in sorted(rows, key=lambda r: (r.values[1], -r.values[0])):
        if not front or row.values[0] > front[-1].values[0]:
            front.append(row)
    return front


def searched_keys(rows: Sequence[TrialRow]) -> list[str]:
    """Keys that took more than one value, in the order they first came."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in row.params.items():
            values.setdefault(key, set()).add(repr(value))
    return [key for key, found in values.items() if len(found) > 1][:_MOST_KEYS]


@dataclass(frozen=True)
class Scale:
    """Places the values of one parameter between 0 and 1: numbers by size, else by name."""

    names: tuple[Any, ...]
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[Any], *, log: bool = False) -> Scale:
        """Choose the scale that suits ``values``.

        Args:
            values: of one parameter.
            log: it was drawn on a logarithmic scale; one over more than a decade is shown so
                in any case.
        """
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if not values or len(numbers) < len(values) or len(set(values)) < 3:
            return cls(tuple(sorted(dict.fromkeys(values), key=lambda v: (str(type(v)), v))))
        low, high = min(numbers), max(numbers)
        return cls((), low, high, log=low > 0 and (log or high / low > 10))

    def place(self, value: Any) -> float:
        """Height of ``value``."""
        if self.low == self.high:
            return 0.5
        if self.names:
            return (self.names.index(value) + 0.5) / len(self.names)
        low, high, at = (np.log(v) if self.log else v for v in (self.low, self.high, value))
        return float((at - low) / (high - low))

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        if self.names:
            return [(self.place(name), _label(name)) for name in self.names]
        middle = np.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(self.place(v), f"{v:.3g}") for v in (self.low, middle, self.high)]


def _label(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

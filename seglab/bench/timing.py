"""Seconds of several contestants, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(
    contestants: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Call every contestant once a round and time it: a noisy neighbour then hits all alike.

    The order turns round with every round, for what comes second finds another machine.

    Args:
        contestants: name → what to time.
        rounds: timed calls of each.
        warm_up: call each once before, untimed.

    Returns:
        name → seconds of each round.
    """
    if warm_up:
        for call in contestants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        order = list(contestants.items())
        for name, call in order if turn % 2 == 0 else reversed(order):
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def fastest(seconds: Mapping[str, list[float]]) -> str:
    """Name of the contestant with the smallest median."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))

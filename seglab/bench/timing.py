"""Seconds of several contestants, measured in turn and in peace."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CALM = 0.03
"""Share of the cores that the host of a virtual machine may take from a round."""
_STAT = Path("/proc/stat")
_STEAL = 8
"""Column of the kernel's line on all cores: ticks that the host gave to others."""


def in_turn(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: bool = True,
    stolen: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Call every contestant once a round and time it: a noisy neighbour then hits all alike.

    The order turns round with every round, for what comes second finds another machine. A
    round from which the host took more than ``CALM`` is repeated, up to ``rounds`` times in
    all; the calmest count.

    Args:
        contestants: name → what to time.
        rounds: timed calls of each.
        warm_up: call each once before, untimed.
        stolen: tells the seconds that the host took so far; None asks the kernel.

    Returns:
        name → seconds of each round.
    """
    if warm_up:
        for call in contestants.values():
            call()
    done: list[tuple[float, dict[str, float]]] = []
    while len(done) < 2 * rounds and sum(taken <= CALM for taken, _ in done) < rounds:
        order = list(contestants.items())
        watch = Watch(stolen)
        seconds = _round(order if len(done) % 2 == 0 else order[::-1])
        done.append((watch.taken(), seconds))
    calmest = sorted(done, key=lambda found: found[0])[:rounds]
    return {name: [seconds[name] for _, seconds in calmest] for name in contestants}


def _round(order: list[tuple[str, Callable[[], object]]]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for name, call in order:
        started = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - started
    return seconds


class Watch:
    """Watches, from its making on, how much of the cores the host gives to others."""

    def __init__(self, stolen: Callable[[], float] | None = None) -> None:
        self._stolen = stolen or stolen_seconds
        self._started, self._before = time.perf_counter(), self._stolen()

    def taken(self) -> float:
        """Share of the time of all cores; 0 where the kernel does not tell."""
        passed = (time.perf_counter() - self._started) * (os.cpu_count() or 1)
        return (self._stolen() - self._before) / max(passed, 1e-9)


def stolen_seconds(stat: Path = _STAT) -> float:
    """Seconds, over all cores, that the host has given to others; 0 where that is not told."""
    try:
        fields = stat.read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(fields[_STEAL]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def fastest(seconds: Mapping[str, list[float]]) -> str:
    """Name of the contestant with the smallest median."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))

"""Seconds of several contestants, measured in turn and in peace."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

CALM = 0.03
"""Share of its processor time that a virtual machine's host may keep from a round."""
FEWEST_TICKS = 3
"""The kernel counts in ticks of 10 ms; fewer tell nothing."""
_STAT = Path("/proc/stat")


class Ticks(NamedTuple):
    """What all cores have done since the machine started."""

    busy: int
    stolen: int
    """They would have run, but the host let others."""


def in_turn(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: bool = True,
    ticks: Callable[[], Ticks] | None = None,
) -> dict[str, list[float]]:
    """Call every contestant once a round and time it: a noisy neighbour then hits all alike.

    The order turns round with every round, for what comes second finds another machine. A
    round from which the host took more than ``CALM`` is repeated, up to ``rounds`` times in
    all; the calmest count.

    Args:
        contestants: name → what to time.
        rounds: timed calls of each.
        warm_up: call each once before, untimed.
        ticks: tells what the cores did so far; None asks the kernel.

    Returns:
        name → seconds of each round.
    """
    if warm_up:
        for call in contestants.values():
            call()
    done: list[tuple[float, dict[str, float]]] = []
    calm = 0
    while calm < rounds and len(done) < 2 * rounds:
        order = list(contestants.items())
        watch = Watch(ticks)
        seconds = _round(order if calm % 2 == 0 else order[::-1])
        done.append((watch.taken(), seconds))
        calm += done[-1][0] <= CALM
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
    """Watches, from its making on, how much processor time the host keeps from this machine."""

    def __init__(self, ticks: Callable[[], Ticks] | None = None) -> None:
        self._ticks = ticks or kernel_ticks
        self._before = self._ticks()

    def taken(self) -> float:
        """Share of the processor time that was asked for; 0 where the kernel does not tell."""
        now = self._ticks()
        stolen = now.stolen - self._before.stolen
        return stolen / (now.busy - self._before.busy + stolen) if stolen >= FEWEST_TICKS else 0.0


def kernel_ticks(stat: Path = _STAT) -> Ticks:
    """Read what Linux tells of all cores; nothing on other systems."""
    try:
        fields = stat.read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, stolen = map(int, fields[1:9])
    except (OSError, ValueError):
        return Ticks(0, 0)
    return Ticks(user + nice + system + irq + softirq, stolen)


def fastest(seconds: Mapping[str, list[float]]) -> str:
    """Name of the contestant with the smallest median."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))

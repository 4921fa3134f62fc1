"""Timing in turn: what is called, in which order, and what a busy host changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.timing import Ticks, in_turn, kernel_ticks


def host(stolen: Sequence[int]) -> Callable[[], Ticks]:
    """A kernel that counts 100 busy ticks in every round, and these stolen ones."""
    readings = [Ticks(0, 0)]
    for taken in stolen:
        readings += [readings[-1], Ticks(readings[-1].busy + 100, readings[-1].stolen + taken)]
    return iter(readings[1:]).__next__


@pytest.mark.parametrize(
    ("stolen", "order"),
    [
        ([0, 0, 0], "ab ba ab"),
        ([3, 0, 2], "ab ba ab"),
        ([9, 0, 0, 0], "ab ab ba ab"),
        ([0, 9, 9, 0, 0], "ab ba ba ba ab"),
        ([9, 9, 9, 9, 9, 9], "ab ab ab ab ab ab"),
    ],
)
def test_the_order_turns_and_disturbed_rounds_are_repeated_for_a_while(
    stolen: list[int], order: str
) -> None:
    called: list[str] = []
    contestants = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = in_turn(contestants, 3, warm_up=False, ticks=host(stolen))
    assert "".join(called) == order.replace(" ", "")
    assert [len(seconds[name]) for name in "ab"] == [3, 3]


def test_the_calmest_rounds_count() -> None:
    pauses = iter([0.3, 0.0, 0.0])
    seconds = in_turn(
        {"any": lambda: time.sleep(next(pauses))}, 2, warm_up=False, ticks=host([9, 0, 0])
    )
    assert max(seconds["any"]) < 0.3


def test_the_kernel_tells_what_the_host_took(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 20 30 4000 5000 60 70 250 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert kernel_ticks(stat) == Ticks(190, 250)
    assert kernel_ticks(tmp_path / "absent") == Ticks(0, 0)
    stat.write_text("cpu  10 20\n")
    assert kernel_ticks(stat) == Ticks(0, 0)

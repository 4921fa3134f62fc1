"""Timing in turn: what is called, in which order, and what a busy host changes."""

from __future__ import annotations

import os
import time
from itertools import accumulate, chain
from pathlib import Path

import pytest

from seglab.bench.timing import in_turn, stolen_seconds


def test_the_order_turns_with_every_round() -> None:
    called: list[str] = []
    contestants = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = in_turn(contestants, 3, stolen=lambda: 0.0)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert [len(seconds[name]) for name in "ab"] == [3, 3]


@pytest.mark.parametrize(("taken_s", "rounds"), [([0, 0], 2), ([9, 0, 0], 3), ([9, 8, 7, 6, 0], 4)])
def test_disturbed_rounds_are_repeated_for_a_while(taken_s: list[float], rounds: int) -> None:
    """Of two rounds; every round reads the host's clock before and after."""
    before_and_after = accumulate(chain.from_iterable((0.0, taken) for taken in taken_s))
    called: list[int] = []
    seconds = in_turn(
        {"any": lambda: called.append(0)}, 2, warm_up=False, stolen=before_and_after.__next__
    )
    assert len(called) == rounds
    assert len(seconds["any"]) == 2


def test_the_calmest_rounds_count() -> None:
    pauses = iter([0.3, 0.0, 0.0])
    clock = accumulate([0.0, 9.0, 0.0, 0.0, 0.0, 0.0])
    seconds = in_turn(
        {"any": lambda: time.sleep(next(pauses))}, 2, warm_up=False, stolen=clock.__next__
    )
    assert max(seconds["any"]) < 0.3


def test_the_kernel_tells_what_the_host_took(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 20 30 40 50 60 70 250 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert stolen_seconds(stat) == 250 / os.sysconf("SC_CLK_TCK")
    assert stolen_seconds(tmp_path / "absent") == 0
    stat.write_text("cpu  10 20\n")
    assert stolen_seconds(stat) == 0

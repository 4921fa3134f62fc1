"""SIGKILL and SIGTERM for every process of a command, at any moment of its life."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from tests.faults.holdings import differences, leftovers, read_holdings
from tests.faults.processes import await_death, outlived, strike
from tests.faults.registry import fault
from tests.faults.workshop import COMMANDS, NEEDS, Place, Workshop

MOST_KILLS = 4
ATTEMPTS = 5
GRACE_S = 60.0
"""How long a command may take to end politely."""


def kill_until_done(
    make_place: Callable[[], Place], command: Sequence[str], seconds: float, rng: random.Random
) -> tuple[Place, Counter[str]]:
    """End a command again and again in a fresh place, until it comes to its end.

    ``seconds``, which it takes undisturbed, are a guess: if it was faster than the axe, another
    place is taken and the axe falls earlier.
    """
    for attempt in range(ATTEMPTS):
        place = make_place()
        counts = _kill(place, command, seconds * 0.6**attempt, rng)
        if counts:
            break
    ended = place.end(command)
    # A promotion that was hit after its end is one that was done.
    assert ended.status == 0 or "was opened on" in ended.err, ended.err[-1500:]
    return place, counts


def _kill(place: Place, command: Sequence[str], seconds: float, rng: random.Random) -> Counter[str]:
    """Kill a command and start it again, up to so often; counts the signals."""
    counts: Counter[str] = Counter()
    for number in range(rng.randint(1, MOST_KILLS)):
        process = place.start(command)
        # It goes on where it was: there is ever less to do.
        if outlived(process, rng.uniform(0.05, 0.9) * seconds * 0.8**number):
            break
        name, hit, below = strike(process, rng)
        counts[name] += 1
        if not hit:
            place.wait(process)  # whatever it makes of the death of its helper
            continue
        ended = place.wait(process, GRACE_S)
        await_death(below)
        assert name == "SIGKILL" or ended.status in {0, 130, -15}, (
            f"SIGTERM gives {ended.status}: {ended.err[-800:]}"
        )
    return counts


def kill_command(shop: Workshop, rng: random.Random, name: str) -> Counter[str]:
    """Kill a command that keeps runs in a store, and compare the store."""
    seconds = shop.undisturbed(name).seconds
    place, counts = kill_until_done(
        lambda: shop.place(NEEDS.get(name)), COMMANDS[name], seconds, rng
    )
    check_store(place, shop, name)
    return counts


def check_store(place: Place, shop: Workshop, name: str) -> None:
    """Compare with the undisturbed command, and clear up; see :func:`compare_store`."""
    compare_store(place, shop, name)
    shop.clear(place)


def compare_store(place: Place, shop: Workshop, name: str, uri: str | None = None) -> None:
    """Compare what the store has, a server's if ``uri`` is given, with the undisturbed command.

    Raises:
        AssertionError: something differs, or something was left behind.
    """
    found = read_holdings(place.folder / "mlruns", uri)
    lines = differences(shop.undisturbed(name).holdings, found)
    assert not lines, "; ".join(lines)[:2000]
    left = leftovers(place.folder)
    assert not left, f"left behind: {left}"


@fault("kill-run", repeats=10)
def kill_run(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A run's processes are killed up to four times."""
    return kill_command(shop, rng, "run")


@fault("kill-ablation", repeats=8)
def kill_ablation(shop: Workshop, rng: random.Random) -> Counter[str]:
    """An ablation's processes are killed up to four times."""
    return kill_command(shop, rng, "ablation")


@fault("kill-sweep", repeats=8)
def kill_sweep(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A search's parent or workers are killed up to four times."""
    return kill_command(shop, rng, "sweep")


@fault("kill-promotion", repeats=10)
def kill_promotion(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A promotion is killed up to four times, before and after it opened the test."""
    return kill_command(shop, rng, "promote")

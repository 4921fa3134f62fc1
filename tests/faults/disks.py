"""Disks that fill up: each part of what a run writes on a small one of its own."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

from tests.faults.copies import contents, filled, prepare, same
from tests.faults.holdings import differences, leftovers, read_holdings
from tests.faults.registry import fault
from tests.faults.tmpfs import KB, enlarge, small_disk
from tests.faults.workshop import COMMANDS, Workshop


def fill_disk(shop: Workshop, rng: random.Random, part: str, most_bytes: int) -> Counter[str]:
    """Let a run meet a full disk in one part of its store, make room, run it again."""
    reference = shop.undisturbed("run").holdings
    place = shop.place()
    disk = place.folder / part
    size = rng.randrange(64 * KB, most_bytes)
    with small_disk(disk, size):
        ended = place.end(COMMANDS["run"])
        if ended.status:
            refused(ended.status, ended.err, size)
        enlarge(disk)
        place.finish(COMMANDS["run"])
        found = read_holdings(place.folder / "mlruns")
        kept = [run for run in found.runs if not ended_for_space(run)]
        lines = differences(reference, replace(found, runs=tuple(kept)))
        assert not lines, f"{size} bytes: {'; '.join(lines)[:2000]}"
        left = leftovers(place.folder)
        assert not left, f"{size} bytes: left behind: {left}"
    shop.clear(place)
    anew = len(found.runs) - len(kept)
    full = int(ended.status != 0)
    return Counter({"full": full, "large enough": 1 - full, "begun anew": anew})


def ended_for_space(run: dict[str, Any]) -> bool:
    """Whether a run failed for want of space before its first checkpoint, and says so.

    There is nothing to continue: the same command trains another one.
    """
    reason = (run["tags"]["error"] or "").lower()
    return run["status"] == "FAILED" and ("space" in reason or "cannot be written" in reason)


def refused(status: int, err: str, size: int) -> None:
    """Check that a full disk is said in one line, as what the user can mend."""
    last = err.strip().splitlines()[-1]
    assert status == 2, f"{size} bytes: status {status}: {err[-1500:]}"
    assert "Traceback" not in err, f"{size} bytes: {err[-1500:]}"
    assert last.startswith("error: "), f"{size} bytes: {last}"


@fault("full-store", repeats=6)
def full_store(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The disk of the SQLite database and all else fills up."""
    return fill_disk(shop, rng, "mlruns", size_of(shop, "."))


@fault("full-artifacts", repeats=4)
def full_artifacts(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The disk of the artifacts fills up."""
    return fill_disk(shop, rng, "mlruns/artifacts", size_of(shop, "artifacts"))


@fault("full-checkpoints", repeats=4)
def full_checkpoints(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The disk of the checkpoints fills up."""
    return fill_disk(shop, rng, "mlruns/state", 400 * KB)


def size_of(shop: Workshop, part: str) -> int:
    """Bytes that an undisturbed run leaves in this part of its store."""
    folder = shop.undisturbed("run").folder / "mlruns" / part
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@fault("full-cache", repeats=4)
def full_cache(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The disk of the cache fills up while it is being filled."""
    expected, _ = filled(shop)
    place = shop.place()
    disk = place.folder / "cache"
    with small_disk(disk, rng.randrange(256 * KB, 4096 * KB)):
        ended = place.end(prepare(shop, "cache"))
        if ended.status:
            refused(ended.status, ended.err, 0)
            assert not contents(disk), f"left behind: {sorted(contents(disk))}"
        enlarge(disk)
        place.finish(prepare(shop, "cache"))
        same(contents(disk), expected)
    shop.clear(place)
    return Counter({"full": int(ended.status != 0), "large enough": int(ended.status == 0)})

"""``make demo``: the whole story on phantoms, in minutes, without account or download."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seglab.cli.shell import DONE, Parser
from seglab.core.errors import UserError

EXPERIMENT = "demo"
PHANTOMS = Path("data/phantoms")
PATIENTS, SIZE, SLICES = 24, 96, 40


def add_commands(commands: Any) -> None:
    """Add ``demo``."""
    parser: Parser = commands.add_parser(
        "demo",
        help="the whole story on synthetic patients",
        description="Make phantoms, compare losses, search, promote the best run, report.",
        epilog="example:\n  make demo",
    )
    parser.set_defaults(do=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from seglab.cli import main, sweep, train
    from seglab.core.machine import available_cores

    workers = ["--workers", str(min(2, available_cores()))]
    phantom = ["--patients", str(PATIENTS), "--size", str(SIZE), "--slices", str(SLICES)]
    chapters: Sequence[tuple[str, Any, list[str]]] = (
        ("phantom patients", main.main, ["data", "phantom", "--out", str(PHANTOMS), *phantom]),
        ("ablation: which loss?", train.main, ["experiments/demo.yaml", *workers]),
        ("search", sweep.main, ["experiments/sweeps/demo.yaml", *workers]),
        ("promotion: one sealed test", promote_once, []),
        ("leaderboard and report", _end, []),
    )
    started = time.perf_counter()
    for number, (title, command, argv) in enumerate(chapters, start=1):
        print(f"\n=== {number}/{len(chapters)} {title}", file=sys.stderr)
        begun = time.perf_counter()
        status = command(argv)
        if status != DONE:
            return int(status)
        print(f"--- {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    print(f"\nThe story took {time.perf_counter() - started:.0f} s. Look at it: make ui")
    return DONE


def promote_once(argv: Sequence[str]) -> int:
    """Promote the best run, unless an earlier demo did: its test opens only once."""
    from seglab.cli import main
    from seglab.tracking import open_store, tags

    ended = open_store().find_runs(EXPERIMENT, {tags.KIND: "promotion"}, ["FINISHED"])
    if not ended:
        return main.main(["promote", EXPERIMENT, *argv])
    dice = ended[0].metrics.get("test/dice", math.nan)
    print(
        f"promotion {ended[0].run_id} opened the sealed test before: test Dice {dice:.4f}. It "
        "opens once; the report shows what it said",
        file=sys.stderr,
    )
    return DONE


def _end(argv: Sequence[str]) -> int:
    from seglab.cli import main
    from seglab.cli.promote import leaderboard
    from seglab.studies.candidates import find_candidates
    from seglab.tracking import open_store

    try:
        print(leaderboard(find_candidates(open_store(), EXPERIMENT)))
    except UserError as error:  # runs that somebody added cannot be ranked together
        print(f"no leaderboard: {error}", file=sys.stderr)
    return main.main(["report", EXPERIMENT, *argv])

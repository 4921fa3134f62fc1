"""Kill commands at random moments, run them again, and compare with the undisturbed result.

    python -m tests.faults --kills 20 --seed 0

Each round kills all processes of a command, its parent or one worker.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.blackbox.commands import LONGEST_S, make_study, start
from tests.faults.undisturbed import COMMANDS, Undisturbed, finish, results, undisturbed

TARGETS = ("all", "parent", "worker")


def hit(process: subprocess.Popen[str], target: str) -> None:
    """Kill ``all`` processes of a command, its ``parent`` or one ``worker``."""
    if target == "all":
        os.killpg(process.pid, signal.SIGKILL)
        return
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if "spawn" in " ".join(child.as_dict(["cmdline"])["cmdline"] or ())
    ]
    if target == "worker" and workers:
        random.choice(workers).kill()
    else:
        process.kill()


def disturb(of: Undisturbed, folder: Path, target: str) -> bool:
    """Start a command and kill it at a random moment; False if it had ended by then."""
    process = start(folder, *COMMANDS[of.command])
    time.sleep(random.uniform(0.1, 1) * of.seconds)
    if is_hit := process.poll() is None:
        hit(process, target)
    process.communicate(timeout=LONGEST_S)
    return is_hit


def row(of: Undisturbed, kills: int, top: Path) -> tuple[str, bool]:
    """Kill a command so often; a row of the table, and whether all ended as if undisturbed."""
    hits = calls = equal = 0
    began = time.monotonic()
    for kill in range(kills):
        folder = top / f"{of.command}-{kill}"
        of.copy(folder)
        try:
            hits += disturb(of, folder, TARGETS[kill % len(TARGETS)])
            calls += finish(folder, of.command)
            equal += results(folder, of.command) == of.results
        except AssertionError as error:
            print(f"{of.command} {kill}: {error}", file=sys.stderr)
        shutil.rmtree(folder)
        print(f"{of.command}: {kill + 1} killed, {equal} equal", file=sys.stderr, flush=True)
    minutes = (time.monotonic() - began) / 60
    text = f"| {of.command} | {kills} | {hits} | {calls} | {equal} | {minutes:.1f} |"
    return text, equal == kills


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "study").mkdir()
        phantoms = make_study(top / "study").phantoms
        rows = [
            row(undisturbed(command, top, phantoms), given.kills, top) for command in given.commands
        ]
    print("| command | rounds | killed at work | calls afterwards | equal | minutes |")
    print("\n".join(["|---|---|---|---|---|---|", *(text for text, _ in rows)]))
    sys.exit(not all(is_equal for _, is_equal in rows))


if __name__ == "__main__":
    main()

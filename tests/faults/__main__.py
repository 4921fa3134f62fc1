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
from typing import Any

import psutil

from tests.blackbox.commands import LONGEST_S, Store, make_study, run, start, write_files

COMMANDS = {
    "run": ("run_experiment.py", "single.yaml"),
    "ablation": ("run_experiment.py", "ablation.yaml", "--workers", "2"),
    "sweep": ("sweep.py", "sweep.yaml", "search.sampler=random", "--workers", "2"),
    "promotion": ("seglab", "promote", "ablation"),
}
EXPERIMENT = {"run": "single", "ablation": "ablation", "sweep": "sweep", "promotion": "ablation"}
KINDS = {"run": "train", "ablation": "train", "sweep": "trial", "promotion": "promotion"}


def results(folder: Path, command: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What the runs of a command measured, by arm and seed, or by trial."""
    store = Store(folder)
    found = {}
    for one in store.runs(EXPERIMENT[command]):
        tags = one.data.tags
        if tags["seglab.kind"] != KINDS[command]:
            continue
        key = (tags["seglab.config_hash"], one.info.status)
        assert key not in found, f"{one.info.run_name} is there twice"
        found[key] = {
            name: store.history(one.info.run_id, name)
            for name in one.data.metrics
            if name.startswith(("train/", "val/", "test/"))
        }
    return found


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


def finish(folder: Path, command: str) -> int:
    """Run the command until it ends well; return how often it had to be called."""
    for attempt in range(1, 4):
        if run(folder, *COMMANDS[command]).status == 0:
            return attempt
    raise AssertionError(run(folder, *COMMANDS[command]).err[-3000:])


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
        for command in given.commands:
            template, undisturbed = top / f"{command}-template", top / f"{command}-undisturbed"
            template.mkdir()
            write_files(template, phantoms)
            if command == "promotion":
                finish(template, "ablation")
            copy(template, undisturbed, phantoms)
            began = time.monotonic()
            finish(undisturbed, command)
            took_s, expected = time.monotonic() - began, results(undisturbed, command)
            for kill in range(given.kills):
                folder = top / f"{command}-{kill}"
                copy(template, folder, phantoms)
                told = disturb(folder, command, ("all", "parent", "worker")[kill % 3], took_s)
                calls = finish(folder, command)
                print(f"{command} {kill}: {told}, {calls} calls", flush=True)
                if results(folder, command) != expected:
                    sys.exit(f"{folder} differs")
                shutil.rmtree(folder)


def copy(template: Path, folder: Path, phantoms: Path) -> None:
    shutil.copytree(template, folder)
    write_files(folder, phantoms)


def disturb(folder: Path, command: str, target: str, took_s: float) -> str:
    """Start a command and kill it while it may run; return what was done."""
    after_s = random.uniform(0.1, 1) * took_s
    process = start(folder, *COMMANDS[command])
    time.sleep(after_s)
    ended = process.poll() is not None
    if not ended:
        hit(process, target)
    process.communicate(timeout=LONGEST_S)
    return "ended before" if ended else f"{target} killed after {after_s:.1f} s"


if __name__ == "__main__":
    main()

"""The commands that faults are injected into, and what they come to without one."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.blackbox.commands import Store, run, write_files

COMMANDS = {
    "run": ("run_experiment.py", "single.yaml"),
    "ablation": ("run_experiment.py", "ablation.yaml", "--workers", "2"),
    "sweep": ("sweep.py", "sweep.yaml", "search.sampler=random", "--workers", "2"),
    "promotion": ("seglab", "promote", "ablation"),
}
EXPERIMENT = {"run": "single", "ablation": "ablation", "sweep": "sweep", "promotion": "ablation"}
KINDS = {"run": "train", "ablation": "train", "sweep": "trial", "promotion": "promotion"}
Results = dict[tuple[str, str], dict[str, list[tuple[int, float]]]]


def results(folder: Path, command: str) -> Results:
    """Every metric of the runs of a command, by config and status; each run is there once."""
    store, found = Store(folder), Results()
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


def finish(folder: Path, command: str) -> int:
    """Call the command until it ends well; returns how often."""
    err = ""
    for attempt in range(1, 4):
        ended = run(folder, *COMMANDS[command])
        # A promotion that came to its end is not repeated.
        is_over = command == "promotion" and "was opened at" in ended.err
        if ended.status == 0 or (
            is_over and [s for _, s in results(folder, command)] == ["FINISHED"]
        ):
            return attempt
        err = ended.err
    raise AssertionError(err[-3000:])


@dataclass(frozen=True)
class Undisturbed:
    """A command before it is run, and what it comes to."""

    command: str
    phantoms: Path
    template: Path
    """Folder in which it was not run yet."""
    results: Results
    seconds: float

    def copy(self, folder: Path) -> None:
        """Make a folder in which the command can be run."""
        shutil.copytree(self.template, folder, dirs_exist_ok=True)
        write_files(folder, self.phantoms)


@cache
def undisturbed(command: str, top: Path, phantoms: Path) -> Undisturbed:
    """Run a command once, and before it what it needs, in folders of its own below ``top``."""
    template, folder = top / f"{command}-template", top / f"{command}-undisturbed"
    if command == "promotion":
        undisturbed("ablation", top, phantoms)
        shutil.copytree(top / "ablation-undisturbed", template)
    else:
        template.mkdir()
    write_files(template, phantoms)
    shutil.copytree(template, folder)
    write_files(folder, phantoms)
    began = time.monotonic()
    finish(folder, command)
    seconds = time.monotonic() - began
    return Undisturbed(command, phantoms, template, results(folder, command), seconds)

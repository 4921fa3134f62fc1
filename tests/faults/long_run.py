"""The long run: a store of hundreds of runs, a search of hundreds of trials in it.

python -m tests.faults.long_run --runs 300 --trials 200

Prints memory, open files and seconds a trial over the length of the search, the size of the
store, and how long the MLflow UI takes to answer at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from seglab.tracking import Store, open_store, start_run
from tests.faults.processes import Running, descendants, outlived
from tests.faults.servers import free_port
from tests.faults.workshop import COMMANDS, Place, Workshop

EPOCHS = 14
LOOK_S = 2.0
PARTS = 5
"""Stretches of the search that are compared."""


@dataclass(frozen=True)
class Look:
    """One process at one moment."""

    at: float
    is_worker: bool
    memory_mb: float
    files: int


def main() -> int:
    """Run it and print the figures; 1 if the search did not end well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300, help="in the store before the search")
    parser.add_argument("--trials", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="long-") as folder:
        shop = Workshop(Path(folder))
        place = shop.place()
        store = open_store(place.folder / "mlruns")
        fill(store, arguments.runs)
        looks, status = search(place, arguments.trials)
        if status != 0:
            print(place.said()[-2000:], file=sys.stderr)
            return 1
        tell(store, looks)
        ask_ui(place)
        shop.nursery.close()
    return 0


def fill(store: Store, runs: int) -> None:
    """Log runs as a training does: tags, params, metrics of every epoch, files."""
    began = time.monotonic()
    for number in range(runs):
        tags = {"seglab.kind": "train", "seglab.arm": "filler", "seglab.seed": number}
        with start_run(store, f"filler {number // 50}", f"filler · seed {number}", tags) as run:
            run.params({f"p.{i}": i for i in range(50)})
            for epoch in range(EPOCHS):
                names = ("train/loss", "val/loss", "val/dice", "val/iou", "lr")
                run.metrics(dict.fromkeys(names, 1 / (1 + epoch)), epoch)
            run.text("patient_id,dice\n" * 50, "patients_val.csv")
    print(f"{runs} runs logged, {(time.monotonic() - began) / max(runs, 1):.2f} s each", flush=True)


def search(place: Place, trials: int) -> tuple[list[Look], int]:
    """Run a search of so many trials; returns what its processes took meanwhile."""
    document = yaml.safe_load((place.folder / "sweep.yaml").read_text())
    document["search"] |= {"trials": trials, "sampler": "random"}
    document["train"] |= {"epochs": 2}
    document["evaluation"] = {"overlays": 0}
    (place.folder / "sweep.yaml").write_text(yaml.safe_dump(document))
    command, looks = place.start(COMMANDS["sweep"]), []
    while not outlived(command, LOOK_S):
        looks += look(command)
    return looks, int(command.poll() or 0)


def look(command: Running) -> list[Look]:
    """Look at the parent and at its worker."""
    now, found = time.time(), []
    for pid in [command.pid, *descendants(command.pid)]:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            continue
        found.append(Look(now, pid != command.pid, pages * 4096 / 1e6, files))
    return found


def tell(store: Store, looks: Sequence[Look]) -> None:
    """Print the figures over stretches of the search."""
    runs = sorted(store.find_runs(tags={"seglab.kind": "trial"}), key=lambda run: run.start_time)
    starts = np.array([run.start_time for run in runs])
    print("trials     s a trial  worker MB  parent MB  worker files  parent files")
    for part in np.array_split(np.arange(len(runs) - 1), PARTS):
        begin, end = starts[part[0]], starts[part[-1] + 1]
        pace = float(np.median(np.diff(starts[part[0] : part[-1] + 2])))
        mine = [one for one in looks if begin <= one.at < end]
        workers = [one for one in mine if one.is_worker]
        parents = [one for one in mine if not one.is_worker]
        memory = [np.median([one.memory_mb for one in some]) for some in (workers, parents)]
        files = [np.median([one.files for one in some]) for some in (workers, parents)]
        print(
            f"{part[0]:3d}–{part[-1]:3d} {pace:12.2f} {memory[0]:10.0f} {memory[1]:10.0f}"
            f" {files[0]:13.0f} {files[1]:13.0f}"
        )
    size = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    started = time.perf_counter()
    count = len(store.find_runs())
    took = time.perf_counter() - started
    print(f"{count} runs, all found in {took:.2f} s; the store takes {size / 1e6:.0f} MB")


def ask_ui(place: Place) -> None:
    """Start the UI, and time what its pages ask for."""
    port = free_port()
    command = place.start(["-m", "seglab", "ui", "--port", str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{address}/health"):
            assert not outlived(command, 0.5), place.said()
        started = time.perf_counter()
        ids = list(open_store(place.folder / "mlruns").experiments())
        body = json.dumps({"experiment_ids": ids, "max_results": 500}).encode()
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search",
            data=body,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            received = len(answer.read())
        took = time.perf_counter() - started
        print(f"the UI answers: 500 runs, {received / 1e6:.1f} MB, in {took:.1f} s")
    finally:
        command_ends(command)


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def command_ends(command: Running) -> None:
    """End a server as Ctrl-C would."""
    os.kill(command.pid, signal.SIGTERM)
    outlived(command, 30)


if __name__ == "__main__":
    sys.exit(main())

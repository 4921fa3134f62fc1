"""Several workers of a sweep on the cores of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks import epoch_worker
from benchmarks.material import Material
from benchmarks.stage import Goal, Measurement, compare_rates, stage
from benchmarks.timing import in_turn
from seglab.core.machine import available_cores
from seglab.studies.data import open_data

WORKERS = 2


@dataclass(frozen=True)
class Crew:
    """Workers that train an epoch at the same time."""

    workers: list[subprocess.Popen[str]]

    def __call__(self) -> None:
        """Let each train an epoch, and wait for all."""
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        for worker in self.workers:
            assert worker.stdout is not None
            if worker.stdout.readline().strip() != epoch_worker.DONE:
                raise RuntimeError("a worker ended before its epoch did")

    def copied_mb(self, file: Path) -> float:
        """Memory that holds a worker's own copy of pages of ``file``, all workers together."""
        return sum(_private_kb(worker.pid, file) for worker in self.workers) / 1e3


@stage("workers", "training", "images/s", goal=Goal(1.1))
def workers(material: Material) -> Measurement:
    """Two workers of a sweep, each with its share of the cores, against one with all of them."""
    config = material.config({"train": {"samples_per_epoch": material.scale.few_samples}})
    cache = open_data(config).cache.path
    with ExitStack() as stack:
        crews = {
            name: stack.enter_context(_crew(material, cache, count, threads))
            for name, count, threads in (
                ("ours", WORKERS, max(1, available_cores() // WORKERS)),
                ("one", 1, available_cores()),
                ("one thread", 1, 1),
            )
        }
        seconds = in_turn(crews, material.scale.rounds)
        copied = crews["ours"].copied_mb(cache / "flair.npy")
    count = material.scale.few_samples
    measured = compare_rates(count, [s / WORKERS for s in seconds["ours"]], seconds["one"])
    alone = compare_rates(count, seconds["one thread"], seconds["one"]).ratio
    return replace(
        measured,
        note=f"one worker with one thread: {alone:.1f}×; "
        f"{copied:.0f} MB of the cache is copied, the rest shared",
    )


@contextmanager
def _crew(material: Material, cache: Path, count: int, threads: int) -> Iterator[Crew]:
    train = {"threads": threads, "samples_per_epoch": material.scale.few_samples}
    path = material.scratch / f"{count}-workers-{threads}.yaml"
    path.write_text(yaml.safe_dump(material.config({"train": train}).to_dict()), encoding="utf-8")
    command = [sys.executable, "-m", epoch_worker.__name__, str(path), str(cache)]
    root = Path(epoch_worker.__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, cwd=root, env=environment, stdin=pipe, stdout=pipe, text=True)
        for _ in range(count)
    ]
    try:
        yield Crew(started)
    finally:
        for worker in started:
            worker.communicate()


def _private_kb(pid: int, file: Path) -> int:
    """Kilobytes of a mapped file that the process has written to; Linux alone tells."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    total, is_file = 0, False
    for line in lines:
        key, *rest = line.split()
        if not key.endswith(":"):
            is_file = bool(rest) and rest[-1] == str(file)
        elif is_file and key == "Private_Dirty:":
            total += int(rest[0])
    return total

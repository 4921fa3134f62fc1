"""Trains an epoch in a process of its own, and prints the most memory it ever held."""

from __future__ import annotations

import json
import resource
import sys
import threading
from pathlib import Path

from seglab.core.documents import read_document
from seglab.core.study import build_run
from seglab.data.cache import open_cache
from seglab.data.loader import TrainLoader
from seglab.learning.batches import Batches
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer, fit

EVERY_S = 0.02


class Peak:
    """The most anonymous memory of this process while the block runs, MB.

    Pages of the memory-mapped cache are left out: the kernel takes them back when it
    needs them, and processes share them. Where it does not tell, they are in.
    """

    def __enter__(self) -> Peak:
        self.mb = anonymous_mb()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.mb = max(self.mb, anonymous_mb())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()


def anonymous_mb() -> float:
    """Memory that belongs to no file, as Linux counts it; elsewhere the peak of all."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000


def main(config_file: str, cache_folder: str) -> None:
    """Train on what the config draws, then read every slice once."""
    config, cache = build_run(read_document(Path(config_file))), open_cache(Path(cache_folder))
    names = [patient.patient_id for patient in cache.patients]
    once = {"samples_per_epoch": None, "tumour_fraction": None}
    reading = config.model_dump() | {"augment": "none", "train": {**vars(config.train), **once}}
    with Peak() as peak:
        compute = choose_compute(config.train)
        next(fit(Trainer(config, cache, names[1:], compute), names[:1]))
        loader = TrainLoader(cache, names[1:], build_run(reading))
        for _ in Batches(loader, names[1:], compute).epoch(0):
            pass
    print(json.dumps({"peak_mb": peak.mb}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Trains an epoch whenever it is told to: what each worker of a sweep does."""

from __future__ import annotations

import sys
from pathlib import Path

from seglab.core.documents import read_document
from seglab.core.study import build_run
from seglab.data.cache import open_cache
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer, train_epoch

DONE = "done"


def main(config_file: str, cache_folder: str) -> None:
    """Train one epoch for each line of standard input, and answer each with a line."""
    config, cache = build_run(read_document(Path(config_file))), open_cache(Path(cache_folder))
    names = [patient.patient_id for patient in cache.patients]
    trainer = Trainer(config, cache, names, choose_compute(config.train))
    for _ in sys.stdin:
        train_epoch(trainer)
        print(DONE, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

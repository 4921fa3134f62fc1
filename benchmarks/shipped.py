"""Epochs of a run exactly as ``run_experiment.py`` does them, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from seglab.core.config import RunConfig
from seglab.learning.training import EpochResult
from seglab.studies.data import open_data
from seglab.studies.experiment import OpenRun, Plan, open_run
from seglab.tracking import open_store


@dataclass
class ShippedEpochs:
    """A run in the scratch store: calling it trains, validates, logs and saves one epoch."""

    run: OpenRun
    epochs: Iterator[EpochResult]

    @property
    def images(self) -> int:
        """Slices trained on in an epoch."""
        return self.run.trainer.loader.samples

    def __call__(self) -> None:
        """Do the next epoch."""
        next(self.epochs)


@contextmanager
def shipped(config: RunConfig) -> Iterator[ShippedEpochs]:
    """Open a run of ``config`` as the command line would."""
    data = open_data(config)
    with open_run(Plan(config, arm=config.name), open_store(), data, fresh=True) as run:
        yield ShippedEpochs(run, run.epochs())

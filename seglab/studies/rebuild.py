"""A finished run, brought back from what the store holds of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seglab.core.config import RunConfig, flatten
from seglab.core.documents import merge, parse_overrides, parse_yaml
from seglab.core.errors import UserError
from seglab.core.older import as_of_today
from seglab.core.study import build_run
from seglab.learning.bundle import ModelBundle, make_card
from seglab.learning.checkpoint import load_weights
from seglab.learning.device import choose_compute
from seglab.learning.inference import Predictor
from seglab.learning.operating_point import OperatingPoint
from seglab.models import build_model
from seglab.studies.data import StudyData, open_data
from seglab.tracking import RunInfo, Store, download, tags

CHECKPOINTS = "checkpoints"
"""Artifact folder of a run that holds its weights and their card."""
CONFIG = "config.yaml"


@dataclass(frozen=True)
class TrainedRun:
    """A run with its data opened and the weights that it kept loaded."""

    run: RunInfo
    config: RunConfig
    data: StudyData
    predictor: Predictor

    def bundle(self, point: OperatingPoint) -> ModelBundle:
        """Make a model of it that can be used without the data."""
        precision = self.predictor.compute.precision
        cache, train = self.data.cache, self.data.split.train
        card = make_card(self.config, cache, train, precision, self.run.run_id, point)
        return ModelBundle(card, self.predictor)


def read_config(store: Store, run: RunInfo, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the config that a run logged, with paths of this machine laid over it.

    Raises:
        UserError: the run has no config, or an override would change its result.
    """
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        path = fetch(store, run, CONFIG, Path(folder))
        document = parse_yaml(path.read_text(encoding="utf-8"), f"{CONFIG} of run {run.run_id}")
    document = as_of_today(document)
    logged = build_run(document)
    given = parse_overrides(overrides)
    config = build_run(merge(document, given))
    if config.hash() != logged.hash() or config.name != logged.name:
        raise UserError(
            f"override '{min(flatten(given))}' would make another run of {run.run_id}: only "
            "data.root, data.cache, data.workers, train.device and train.threads may be given"
        )
    return config


def load_trained(store: Store, run: RunInfo, overrides: Sequence[str] = ()) -> TrainedRun:
    """Open a run's data and load the weights that it kept.

    Raises:
        UserError: the run did not finish, or the data or split is not what it was trained on.
    """
    if run.status != "FINISHED":
        raise UserError(f"run {run.run_id} ({run.name}) is {run.status}, not FINISHED")
    config = read_config(store, run, overrides)
    data = open_data(config)
    refuse_other_data(run, data)
    compute = choose_compute(config.train)
    channels, shape = config.input_channels, data.cache.shape
    network = build_model(config.model, channels, shape, pretrained=False)
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        load_weights(fetch_weights(store, run, Path(folder)), network)
    predictor = Predictor(network.to(compute.device), compute, config.data.context)
    return TrainedRun(run, config, data, predictor)


def refuse_other_data(run: RunInfo, data: StudyData) -> None:
    """Refuse data or a split that differ from those of the run.

    Runs of the time when caches held one channel hashed other files: of their data only the
    split, which is the patients' names, can be compared.
    """
    compared = [(tags.SPLIT_HASH, data.split.hash, "split")]
    if "data.modalities" in run.params:
        compared.insert(0, (tags.DATA_HASH, data.cache.data_hash, "data"))
    for tag, here, noun in compared:
        there = run.tags.get(tag)
        if there != here:
            raise UserError(
                f"run {run.run_id} was trained on other {noun}: its {tag} is {there}, "
                f"that of data.root is {here}"
            )


def fetch(store: Store, run: RunInfo, artifact: str, folder: Path) -> Path:
    """Download one artifact.

    Raises:
        UserError: the run does not have it.
    """
    download(store, run.run_id, folder, artifact)
    return folder / artifact


def fetch_weights(store: Store, run: RunInfo, folder: Path) -> Path:
    """Download the weights that a run kept; earlier versions called them best.safetensors.

    Raises:
        UserError: the run has none.
    """
    (name,) = download(store, run.run_id, folder, f"{CHECKPOINTS}/*.safetensors").files
    return folder / name

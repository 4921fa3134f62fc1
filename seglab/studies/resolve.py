"""What a user named: found in the store or on the disk, and loaded."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from seglab.core.config import RunConfig, flatten
from seglab.core.documents import as_of_today, merge, parse_overrides, parse_yaml
from seglab.core.errors import UserError, unknown_name
from seglab.core.study import build_run
from seglab.data.open import StudyData
from seglab.data.splits import PARTS, Split, training_patients
from seglab.learning.bundle import CARD, ModelBundle, load_bundle, make_card, read_card
from seglab.learning.checkpoint import load_weights
from seglab.learning.device import choose_compute
from seglab.learning.inference import Predictor
from seglab.learning.operating_point import OperatingPoint
from seglab.models.build import build_model
from seglab.studies.data import SharedData
from seglab.tracking import tags
from seglab.tracking.artifacts import (
    FOLDER,
    Registered,
    download,
    find_registered,
    read_artifact,
    registered_models,
)
from seglab.tracking.store import RunInfo, Store, UnknownRun

CHECKPOINTS = "checkpoints"
"""Artifact folder of a run that holds its weights and their card."""
SPLIT = "split.json"
WEIGHTS = f"{CHECKPOINTS}/*.safetensors"
"""The weights that a run kept; earlier versions called them best.safetensors."""
NEWEST = 3  # runs of an experiment or a parent run that are named where one run is wanted
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".pkl", ".bin", ".onnx"}


@dataclass(frozen=True)
class Found:
    """What a name stands for: one of the three."""

    runs: Sequence[RunInfo] = ()
    """Of an experiment, newest first."""
    run: RunInfo | None = None
    model: Registered | None = None


def find(store: Store, name: str, *kinds: Literal["experiment", "run", "model"]) -> Found:
    """Find what a user named, one of ``kinds``; a name goes before the beginning of an id.

    It is the whole name of an experiment that has runs; of a registered model, also as
    ``name@alias``, ``name/version`` and ``models:/…``; a run's id or how it begins. Raises
    UserError where nothing has this name, and tells the nearest, or several ids begin so.
    """
    if "run" in kinds and _RUN_ID.fullmatch(name):
        return Found(run=store.get_run(name))
    if "model" in kinds and set("@/") & set(name):
        return Found(model=find_registered(store, name))
    if "experiment" in kinds and (runs := store.find_runs(name)):
        return Found(runs=runs)
    names = set(registered_models(store)) if "model" in kinds else set()
    if name in names:
        return Found(model=find_registered(store, name))
    if "run" in kinds:
        with suppress(UnknownRun):
            return Found(run=store.find_run(name))
    if "experiment" not in kinds and (runs := store.find_runs(name)):
        newest = _name_newest(runs)
        raise UserError(f"'{name}' is an experiment, not a {' or '.join(kinds)}; {newest}")
    if "experiment" in kinds:
        experiments = store.experiments()
        names |= {experiments[run.experiment_id] for run in store.find_runs()}
    what = " or ".join(kinds)
    if not names:
        done = "run has been trained" if "experiment" in kinds else "model is registered"
        raise UserError(f"no {what} '{name}': no {done} yet")
    raise unknown_name(what, name, names)


def _name_newest(runs: Sequence[RunInfo]) -> str:
    named = ", ".join(f"{run.run_id} ({run.name})" for run in runs[:NEWEST])
    return f"newest: {named or 'none'}"


def find_model(store: Store, name: str) -> tuple[RunInfo, Registered | None]:
    """Find the run that logged a model, and its registered version where that is named."""
    found = find(store, name, "run", "model")
    return found.run or store.get_run(found.model.run_id if found.model else ""), found.model


def find_file(name: str) -> Path | None:
    """Take a name for a path if it is one; a UserError where it only looks like one."""
    path = Path(name)
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or path.suffix in _SUFFIXES:
        raise UserError(f"{name}: no such checkpoint")
    return None


def find_trained(store: Store, name: str) -> RunInfo:
    """Find the run that trained what ``name`` names, in all the ways of :func:`open_model`."""
    if (path := find_file(name)) is not None:
        card = read_card(_weights(path).parent)
        if card.run_id is None:
            raise UserError(f"{name}: its {CARD} names no run")
        return store.get_run(card.run_id)
    found = find(store, name, "run", "model")
    if found.model is None:
        assert found.run is not None
        return found.run
    if tags.PROMOTED_RUN not in found.model.tags:
        raise UserError(
            f"version {found.model.version} of model '{found.model.name}' was not registered by a "
            f"promotion: it does not say which run trained it (tag {tags.PROMOTED_RUN})"
        )
    return store.get_run(found.model.tags[tags.PROMOTED_RUN])


def open_model(name: str, open_store: Callable[[], Store]) -> ModelBundle:
    """Open a model by its folder or weights, a run, or a registered name.

    No code that comes with it is ever run. The store is opened only where it is needed.
    """
    if (path := find_file(name)) is not None:
        return _load(path)
    store = open_store()
    run, _ = find_model(store, name)
    patterns = [f"{FOLDER}/*{CARD}", f"{FOLDER}/*.safetensors"]
    kind = run.tags.get(tags.KIND)
    if kind in ("ablation", "sweep"):
        newest = _name_newest(store.find_runs(parent_run_id=run.run_id))
        raise UserError(f"run {run.run_id} ({run.name}) is of kind {kind}, not a model; {newest}")
    if kind != "promotion":
        refuse_unfinished(run)
        patterns = [f"{CHECKPOINTS}/*"]
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        for pattern in patterns:
            download(store, run.run_id, Path(folder), pattern)
        return _load(Path(folder))


def split_parts(name: str, open_store: Callable[[], Store]) -> dict[str, str]:
    """Patient → part of the split that a model was trained on; empty where nothing tells it.

    Of files, ``split.json`` beside them as a run logged it; of the others, that of the run that
    logged them: an ensemble's promotion, and not its first run.
    """
    text = b"{}"
    with suppress(UserError):
        if (path := find_file(name)) is not None:
            near = (one / SPLIT for one in (path, *list(path.absolute().parents)[:2]))
            text = next((one.read_bytes() for one in near if one.is_file()), text)
        else:
            store = open_store()
            text = read_artifact(store, find_model(store, name)[0], SPLIT)
    split = json.loads(text)
    return {one: part for part in PARTS for one in split.get(part, ())}


def _load(path: Path) -> ModelBundle:
    weights = _weights(path)
    return load_bundle(weights.parent, weights=weights.name)


def _weights(path: Path) -> Path:
    """The one checkpoint in a model's own folder, in an MLflow model or a run's artifacts."""
    if path.is_file():
        return path
    found = [one for card in path.rglob(CARD) for one in card.parent.glob("*.safetensors")]
    if len(found) != 1:
        raise UserError(
            f"{path} is no model: it holds {len(found)} safetensors files with a {CARD} beside "
            "them; name the folder or the file of one"
        )
    return found[0]


@dataclass(frozen=True)
class TrainedRun:
    """A run with its data opened and the weights that it kept loaded."""

    run: RunInfo
    config: RunConfig
    data: StudyData
    predictor: Predictor
    members: tuple[TrainedRun, ...] = ()
    """Of an ensemble: the runs whose probabilities are averaged, this one first."""

    @property
    def across_folds(self) -> bool:
        """Whether the members validated on different patients."""
        return len({one.data.split.val for one in self.members}) > 1

    @property
    def split(self) -> Split:
        """The parts as the model saw them: across folds, every patient but the test's trained."""
        split = self.data.split
        if not self.across_folds:
            return split
        train = tuple(sorted(split.train + split.val))
        return replace(split, train=train, val=(), redrawn="", sites=())

    def bundle(self, point: OperatingPoint) -> ModelBundle:
        """Make a model of it that can be used without the data."""
        precision, cache = self.predictor.compute.precision, self.data.cache
        runs = self.members or (self,)
        names = [name for one in runs for name in training_patients(one.data.split, one.config)]
        train = list(dict.fromkeys(names))
        card = make_card(self.config, cache, train, precision, self.run.run_id, point)
        members = tuple(one.config.model for one in self.members)
        return ModelBundle(replace(card, members=members), self.predictor)


def load_trained(
    store: Store, run: RunInfo, overrides: Sequence[str] = (), shared: SharedData | None = None
) -> TrainedRun:
    """Open a run's data, unless ``shared`` has them, and load the weights that it kept.

    Raises UserError where it did not finish, or was trained on other data or another split.
    """
    refuse_unfinished(run)
    config = read_config(store, run, overrides)
    data = open_trained_data(run, config, shared)
    compute = choose_compute(config.train)
    channels, shape = config.input_channels, data.cache.shape
    network = build_model(config.model, channels, shape, pretrained=False)
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        load_weights(fetch(store, run, WEIGHTS, Path(folder)), network)
    predictor = Predictor(network.to(compute.device), compute, config.data.context)
    return TrainedRun(run, config, data, predictor)


def refuse_unfinished(run: RunInfo) -> None:
    """Refuse a run that did not come to its end."""
    if run.status != "FINISHED":
        raise UserError(f"run {run.run_id} ({run.name}) is {run.status}, not FINISHED")


def read_config(store: Store, run: RunInfo, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the config that a run logged, with paths of this machine laid over it.

    Raises UserError where an override would change the result.
    """
    text = read_artifact(store, run, "config.yaml").decode()
    document = as_of_today(parse_yaml(text, f"config.yaml of run {run.run_id}"))
    logged = build_run(document)
    given = parse_overrides(overrides)
    config = build_run(merge(document, given))
    if config.hash() != logged.hash() or config.name != logged.name:
        raise UserError(
            f"override '{min(flatten(given))}' would make another run of {run.run_id}: only "
            "data.root, data.persons, data.cache, data.workers, train.device and train.threads "
            "may be given"
        )
    return config


def open_trained_data(
    run: RunInfo, config: RunConfig, shared: SharedData | None = None
) -> StudyData:
    """Open the data of a run; a UserError where they or the split are not what it was trained on.

    Runs of the time when caches held one channel hashed other files: of their data only the
    split, which is the patients' names, can be compared.
    """
    data = (shared or SharedData()).of(config)
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
    return data


def fetch(store: Store, run: RunInfo, pattern: str, folder: Path) -> Path:
    """Download the one artifact that a pattern names; a UserError where the run has none."""
    (name,) = download(store, run.run_id, folder, pattern).files
    return folder / name

"""Fixtures of stores and searches."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from seglab.core.config import RunConfig
from seglab.core.documents import merge
from seglab.core.study import Study, resolve_study
from seglab.data.phantom.write import write_phantom
from seglab.studies.experiment import Plan, train_one
from seglab.tracking.connect import open_store
from seglab.tracking.store import Store

SEARCH: dict[str, Any] = {
    "trials": 2,
    "space": {"optim.lr": {"low": 1e-4, "high": 2e-2, "log": True}},
    "pruner": {"name": "median", "startup_trials": 2},
    "confirm": {"top": 0},
}
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "unet", "base_channels": 4, "depth": 2},
    "train": {
        "epochs": 1,
        "batch_size": 4,
        "samples_per_epoch": 8,
        "threads": 1,
        "device": "cpu",
    },
    "evaluation": {"overlays": 0},
    "split": {"fractions": [0.5, 0.3, 0.2]},
}


@pytest.fixture(scope="module")
def store(fresh_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that the tests of a file share."""
    folder = tmp_path_factory.mktemp("store") / "mlruns"
    shutil.copytree(fresh_folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return open_store(folder)


@pytest.fixture(scope="module")
def train(store: Store) -> Callable[..., str]:
    """Train a config once in a file; returns the id of its run."""

    def run_id(config: RunConfig, arm: str = "a", **plan: Any) -> str:
        return train_one(Plan(config, arm, **plan), store).run_id

    return run_id


@pytest.fixture(scope="session")
def content() -> Callable[[Store], dict[str, Any]]:
    """Every row of every table of a store, and every artifact with its bytes."""

    def read(store: Store) -> dict[str, Any]:
        with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as database:
            tables = "select name from sqlite_master where type = 'table'"
            names = [name for (name,) in database.execute(tables).fetchall()]
            rows = {name: database.execute(f'select * from "{name}"').fetchall() for name in names}
        files = [path for path in (store.folder / "artifacts").rglob("*") if path.is_file()]
        return {**rows, "files": {path: path.read_bytes() for path in files}}

    return read


@pytest.fixture
def this_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands use the store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)


@pytest.fixture(scope="session")
def six_phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small phantoms, and of their cache."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom(folder / "set", patients=6, size=48, slices=10, workers=1)
    return folder


@pytest.fixture
def write(
    six_phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Write a small search; keyword arguments are laid over its block."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def write_file(epochs: int = 1, **search: Any) -> Path:
        data = {
            "source": "brats-h5",
            "root": str(six_phantoms / "set"),
            "cache": str(six_phantoms / "cache"),
            "image_size": 48,
            "crop": "none",
            "workers": 1,
        }
        train = {"epochs": epochs, "batch_size": 8, "samples_per_epoch": None}
        own = {"data": data, "augment": "none", "train": train, "evaluation": {"overlays": 1}}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(merge(TINY, {**own, "search": {**SEARCH, **search}})))
        return path

    return write_file


@pytest.fixture(scope="session")
def build(phantoms: Path, shared_cache: Path) -> Callable[..., Study]:
    """Build a study of a second a run on phantoms; keyword arguments are laid over it."""
    data = {
        "source": "brats-h5",
        "root": str(phantoms),
        "cache": str(shared_cache),
        "image_size": 64,
    }

    def build(**overrides: Any) -> Study:
        return resolve_study(merge({**TINY, "data": data}, overrides))

    return build

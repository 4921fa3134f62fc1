"""Fixtures of stores and searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from seglab.core.documents import merge
from seglab.core.study import Study, resolve_study
from seglab.data.phantom.write import write_phantom
from seglab.tracking.connect import open_store
from seglab.tracking.store import Store
from tests.faults.servers import PostgresServer

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
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that the tests of a file share."""
    return open_store(tmp_path_factory.mktemp("store") / "mlruns")


@pytest.fixture
def this_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands use the store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """A PostgreSQL server, or a skip that says what is missing."""
    pytest.importorskip("psycopg")
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("no PostgreSQL server programs in /usr/lib/postgresql")
    with PostgresServer() as server:
        yield server


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

    def write_file(folder: Path = tmp_path, epochs: int = 1, **search: Any) -> Path:
        document = {
            "name": "tiny",
            "data": {
                "source": "brats-h5",
                "root": str(six_phantoms / "set"),
                "cache": str(six_phantoms / "cache"),
                "image_size": 48,
                "crop": "none",
                "workers": 1,
            },
            "split": {"fractions": [0.5, 0.25, 0.25]},
            "model": {"name": "unet", "base_channels": 4, "depth": 2},
            "augment": "none",
            "train": {"epochs": epochs, "threads": 1},
            "search": {**SEARCH, **search},
        }
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write_file


@pytest.fixture
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

"""Stores made for tests: SQLite ones in temporary folders, and a real server."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seglab.tracking.connect import open_store
from seglab.tracking.run import RunLog, start_run
from seglab.tracking.store import Store
from tests.faults.servers import DATABASE, MlflowServer

LogAndDie = Callable[[Store, Callable[[RunLog], object]], str]


@pytest.fixture(autouse=True)
def _no_foreign_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def store(fresh_store: Store) -> Store:
    return fresh_store


@pytest.fixture
def log_and_die() -> LogAndDie:
    """Id of a run whose process is killed after it has logged something."""

    def run_and_kill(store: Store, log: Callable[[RunLog], object]) -> str:
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            run = start_run(store, "killed", "run", {"seglab.kind": "train"})
            log(run)
            os.write(writing, run.run_id.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        run_id = os.read(reading, 32).decode()
        os.waitpid(child, 0)
        return run_id

    return run_and_kill


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its database and artifacts."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(fresh_folder: Path, server_folder: Path) -> Iterator[MlflowServer]:
    """A server with its own database that hands artifacts through, as on another machine."""
    shutil.copy(fresh_folder / "mlflow.db", server_folder / DATABASE)
    server = MlflowServer(server_folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def remote(server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on the real server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return open_store(tmp_path / "mlruns")

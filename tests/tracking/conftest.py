"""Stores made for tests: SQLite ones in temporary folders, and a real server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seglab.tracking import Store, open_store


@pytest.fixture(autouse=True)
def _no_foreign_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def fresh_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store; copied, not used, since making one takes seconds."""
    folder = tmp_path_factory.mktemp("fresh") / "mlruns"
    open_store(folder)
    return folder


@pytest.fixture
def store(fresh_folder: Path, tmp_path: Path) -> Store:
    folder = tmp_path / "mlruns"
    shutil.copytree(fresh_folder, folder)
    return open_store(folder)


class Server:
    """A real ``mlflow server`` on 127.0.0.1 that can be stopped and started again."""

    def __init__(self, command: list[str], environment: dict[str, str], port: int) -> None:
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, "the server ended by itself"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[[list[str], dict[str, str], int], Server]]:
    """Start servers that are stopped when the tests end, whatever happens."""
    started: list[Server] = []

    def start(command: list[str], environment: dict[str, str], port: int) -> Server:
        server = Server(command, environment, port)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its database and artifacts."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(
    start_server: Callable[[list[str], dict[str, str], int], Server],
    fresh_folder: Path,
    server_folder: Path,
) -> Server:
    """A server with its own database that hands artifacts through, as on another machine."""
    folder = server_folder
    shutil.copy(fresh_folder / "mlflow.db", folder / "server.db")
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return start_server(command, environment, port)


@pytest.fixture
def remote(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on the real server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return open_store(tmp_path / "mlruns")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

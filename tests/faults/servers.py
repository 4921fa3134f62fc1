"""Servers on 127.0.0.1 that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

START_S = 90.0
DATABASE = "server.db"
"""Of an MLflow server, in its folder."""


def free_port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], object], wait_s: float = START_S) -> None:
    """Ask again and again, until it is so."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.2)


def is_up(uri: str) -> bool:
    """Whether an MLflow server answers there."""
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class MlflowServer:
    """A real ``mlflow server`` with a database of its own; hands artifacts through."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        port = free_port()
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / DATABASE}"),
            *("--artifacts-destination", str(folder / "artifacts")),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        process = self._process
        wait_until(lambda: is_up(self.uri) or process.poll() is not None)
        assert process.poll() is None, "the server ended by itself"

    def stop(self, *, hard: bool = False) -> None:
        """End it and its workers; ``hard`` with SIGKILL, in the middle of a request."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL if hard else signal.SIGTERM)
            self._process.wait()
            self._process = None


class PostgresServer:
    """A database server, run by the user ``postgres`` where this process is root."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        assert programs, "no PostgreSQL server programs in /usr/lib/postgresql"
        self._programs = programs[-1]
        # A socket's path must be short, and other users must be able to reach it.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._port = free_port()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/seglab"

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*as_user, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder)

    def _control(self, *arguments: str) -> None:
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        where = ("-D", str(self._folder / "data"), "-l", str(self._folder / "log"))
        self._run("pg_ctl", *where, "-o", options, "-w", *arguments)

    def restart(self) -> None:
        """Cut every connection, and start again at once."""
        self._control("-m", "fast", "restart")

    def __enter__(self) -> PostgresServer:
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "-D", str(self._folder / "data"), "-A", "trust", "-U", "postgres")
        self._control("start")
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres", "seglab")
        return self

    def __exit__(self, *_: object) -> None:
        self._control("-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

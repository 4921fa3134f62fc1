"""Open the store, SQLite under ``mlruns/`` or the server that the environment names; serve it.

MLflow stores absolute artifact locations. The SQLite database keeps the folder that they were
written for, so that opening a moved or copied folder rewrites them.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from filelock import FileLock

from seglab.core.errors import UserError, first_line
from seglab.tracking import tags
from seglab.tracking.errors import as_user_error, redact, retry_locked, unreachable
from seglab.tracking.store import ARTIFACTS, SQLITE, Store, runs_link

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DATABASE = "mlflow.db"
_MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOG_LEVELS = {
    "alembic": logging.WARNING,
    # These log what is retried, or reported in one line, anyway.
    "mlflow.store.db.utils": logging.CRITICAL,
    "mlflow.system_metrics": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_BUSY_S = 60
_LOCK_S = 120
_STOP_S = 10
_POLL_S = 0.2


def default_uri(folder: Path = Path("mlruns")) -> str:
    """Return ``MLFLOW_TRACKING_URI`` if set, else the SQLite database under ``folder``."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return given or f"{SQLITE}{folder.absolute() / DATABASE}"


def open_store(folder: Path = Path("mlruns")) -> Store:
    """Open the store; safe for many processes on a fresh folder.

    Must be called before any ``import mlflow``, whose defaults it sets in the environment. An
    SQLite ``MLFLOW_TRACKING_URI`` brings its own folder, a server keeps only local state in
    ``folder``. Raises UserError where it does not answer, or the folder cannot be written.
    """
    for name, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    uri = default_uri(folder)
    if uri.startswith(SQLITE):
        return _open_local(Path(uri.removeprefix(SQLITE)).absolute())
    where = f"MLFLOW_TRACKING_URI={redact(uri)}"
    if (reason := unreachable(uri)) is not None:
        raise UserError(f"{where} cannot be reached: {reason}")
    return Store(uri, folder.resolve(), _client(uri, where))


def find_store() -> Store | None:
    """Open the store as :func:`open_store` does; None where it would have to be made."""
    uri = default_uri()
    absent = uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists()
    return None if absent else open_store()


def _open_local(database: Path) -> Store:
    folder = database.parent.resolve()
    database = folder / database.name
    if set("?#%") & set(str(database)):
        raise UserError(f"{folder}: MLflow cannot use a folder with '?', '#' or '%' in its path")
    with as_user_error(str(folder)):
        retry_locked(lambda: prepare_database(database))
        if not (os.access(folder, os.W_OK) and os.access(database, os.W_OK)):
            raise UserError(f"{folder} cannot be used: Permission denied")
    uri = f"{SQLITE}{database}"
    return Store(uri, folder, _client(uri, str(database)))


def _client(uri: str, where: str) -> MlflowClient:
    """A client of a store that answers; ``UserError`` if it does not or is of another version."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def connect() -> MlflowClient:
        client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
        return client

    try:
        with as_user_error(where):
            return retry_locked(connect)
    except MlflowException as error:
        raise UserError(f"{where} cannot be used: {redact(first_line(error))}") from error


def prepare_database(database: Path) -> None:
    """Create ``database`` where it is absent, or rewrite its locations for this folder.

    Safe for many processes at once; an unfinished database never has this name.
    """
    folder = str(database.parent)
    if database.exists() and _home(database) == folder:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.parent / ".lock", timeout=_LOCK_S):
        if not database.exists():
            _create(database)
        elif (home := _home(database)) != folder:
            with _connect(database) as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                if home is not None:
                    _relocate(connection, home, folder)
                _set_home(connection, folder)


def _connect(database: Path) -> closing[sqlite3.Connection]:
    # mode=rw never creates the file, unlike a plain path.
    uri = f"{database.as_uri()}?mode=rw"
    return closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S))


def _home(database: Path) -> str | None:
    """Return the folder the stored locations were written for; None in a database of MLflow's."""
    with _connect(database) as connection:
        known = "SELECT name FROM sqlite_master WHERE name = 'seglab_home'"
        if connection.execute(known).fetchone() is None:
            return None
        row = connection.execute("SELECT folder FROM seglab_home").fetchone()
    return None if row is None else str(row[0])


def _create(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for leftover in database.parent.glob(f".{DATABASE}.new-*"):
        leftover.unlink()
    draft = database.parent / f".{DATABASE}.new-{os.getpid()}"
    try:
        open_draft: Any = SqlAlchemyStore  # untyped in MLflow
        open_draft(f"{SQLITE}{draft}", str(database.parent / ARTIFACTS)).engine.dispose()
        with _connect(draft) as connection, connection:
            # Readers (the UI) and writers do not wait for each other.
            connection.execute("PRAGMA journal_mode=WAL")
            _set_home(connection, str(database.parent))
        draft.replace(database)
    finally:
        draft.unlink(missing_ok=True)


def _set_home(connection: sqlite3.Connection, folder: str) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS seglab_home (folder TEXT NOT NULL)")
    connection.execute("DELETE FROM seglab_home")
    connection.execute("INSERT INTO seglab_home VALUES (?)", (folder,))


def _relocate(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Rewrite the locations below the folder ``old``, plain paths and ``file://`` addresses."""
    for table, column in _LOCATIONS:
        for before, after in ((old, new), (f"file://{quote(old)}", f"file://{quote(new)}")):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?",
                (after, len(before) + 1, len(before) + 1, before + "/"),
            )


def serve_ui(store: Store, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Serve the MLflow UI until Ctrl-C; returns its exit status. Of a server print the address."""
    if store.uri.startswith("http"):
        print(redact(store.uri))
        return 0
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UserError(f"cannot serve on {host}:{port}: {error.strerror}; try --port") from None
    address = newest_runs_link(store, f"http://{host}:{port}")
    print("starting the MLflow UI …", file=sys.stderr, flush=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)),
        *("--workers", "1", "--uvicorn-opts", "--log-level warning"),
    ]
    # The store's address may hold a password, which a command line would show to every user.
    of_clients = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    inherited = {key: value for key, value in os.environ.items() if key not in of_clients}
    given = {
        "MLFLOW_BACKEND_STORE_URI": store.uri,
        "MLFLOW_REGISTRY_STORE_URI": store.uri,
        "PYTHONWARNINGS": "ignore",  # of MLflow's own imports
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(store.folder / ARTIFACTS),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    server = subprocess.Popen(command, env=inherited | given)
    try:
        while server.poll() is None and unreachable(f"http://{host}:{port}") is not None:
            time.sleep(_POLL_S)
        if server.poll() is None:
            print(f"MLflow UI: {address}  (Ctrl-C stops it)", file=sys.stderr, flush=True)
        return server.wait()
    finally:
        server.terminate()
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()


def newest_runs_link(store: Store, address: str) -> str:
    """Return the link to the experiment whose run began last; its parent runs are open there.

    A search stands for its confirmation too. Without any run it is the UI itself.
    """
    runs = store.find_runs()  # newest first
    confirming = {run.run_id for run in runs if tags.CONFIRMS in run.tags}
    newest = next(
        (run for run in runs if (run.parent_run_id or run.run_id) not in confirming), None
    )
    if newest is None:
        return address
    of_newest = (run for run in runs if run.experiment_id == newest.experiment_id)
    found = [run.run_id for run in of_newest if run.parent_run_id is None]
    state, set_tag = tags.view_state(found), store.client.set_experiment_tag
    store.call(lambda: set_tag(newest.experiment_id, tags.VIEW_TAG, state))
    return runs_link(address, newest.experiment_id)

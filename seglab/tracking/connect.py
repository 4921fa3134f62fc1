"""Open the store: SQLite under ``mlruns/``, or the server that the environment names."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from seglab.core.errors import UserError, first_line
from seglab.tracking.database import DATABASE, SQLITE, prepare_database, sqlite_uri
from seglab.tracking.errors import as_user_error, redact, retry_locked, unreachable
from seglab.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def default_uri(folder: Path = Path("mlruns")) -> str:
    """Return ``MLFLOW_TRACKING_URI`` if set, else the SQLite database under ``folder``."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return given or sqlite_uri(folder.absolute() / DATABASE)


def open_store(folder: Path = Path("mlruns")) -> Store:
    """Open the store, ready to use; safe for many processes on a fresh folder.

    Args:
        folder: of the database, artifacts and local state. An SQLite
            ``MLFLOW_TRACKING_URI`` brings its own folder, a server keeps only
            local state in ``folder``.

    Raises:
        UserError: no answer within seconds, or the folder cannot be written.
    """
    configure_mlflow()
    uri = default_uri(folder)
    if uri.startswith(SQLITE):
        return _open_local(Path(uri.removeprefix(SQLITE)).absolute())
    if (reason := unreachable(uri)) is not None:
        raise UserError(f"MLFLOW_TRACKING_URI={redact(uri)} cannot be reached: {reason}")
    return Store(uri, folder.resolve(), _client(uri, f"MLFLOW_TRACKING_URI={redact(uri)}"))


def configure_mlflow() -> None:
    """Set MLflow's environment and log levels; call before any ``import mlflow``.

    What the user set in the environment is left alone.
    """
    for name, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Logs a traceback for every locked database, which is retried and reported here in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def _open_local(database: Path) -> Store:
    folder = database.parent.resolve()
    database = folder / database.name
    if set("?#%") & set(str(database)):
        raise UserError(f"{folder}: MLflow cannot use a folder with '?', '#' or '%' in its path")
    with as_user_error(str(folder)):
        retry_locked(lambda: prepare_database(database))
        if not (os.access(folder, os.W_OK) and os.access(database, os.W_OK)):
            raise UserError(f"{folder} cannot be used: permission is denied")
    uri = sqlite_uri(database)
    return Store(uri, folder, _client(uri, str(database)))


def _client(uri: str, where: str) -> MlflowClient:
    """A client of a store that answers.

    Raises:
        UserError: it does not, or is of another version of MLflow.
    """
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

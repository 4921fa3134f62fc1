"""Open the store: SQLite under ``mlruns/``, or the server that the environment names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from seglab.core.errors import UserError
from seglab.core.imports import collector_paused
from seglab.tracking.database import DATABASE, SQLITE, prepare_database, sqlite_uri
from seglab.tracking.failures import explained, patiently, redact, unreachable
from seglab.tracking.quiet import settle_mlflow
from seglab.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def default_uri(folder: Path = Path("mlruns")) -> str:
    """Return ``MLFLOW_TRACKING_URI`` if set, else the SQLite database under ``folder``."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return given or sqlite_uri(folder.absolute() / DATABASE)


@collector_paused()  # MLflow is imported, and much with it
def open_store(folder: Path = Path("mlruns"), away_s: float = 0.0) -> Store:
    """Open the store, ready to use; safe for many processes on a fresh folder.

    Args:
        folder: of the database, artifacts and local state. An SQLite
            ``MLFLOW_TRACKING_URI`` brings its own folder, a server keeps only
            local state in ``folder``.
        away_s: seconds to wait for a server that was there when the command began.

    Raises:
        UserError: no answer within seconds or so long, or the folder cannot be written.
    """
    settle_mlflow()
    uri = default_uri(folder)
    if uri.startswith(SQLITE):
        database = Path(uri.removeprefix(SQLITE)).absolute()
        return _open_local(database)
    return _open_remote(uri, folder.resolve(), away_s)


def _open_local(database: Path) -> Store:
    folder = database.parent.resolve()
    database = folder / database.name
    if set("?#%") & set(str(database)):
        raise UserError(f"{folder}: MLflow cannot use a folder with '?', '#' or '%' in its path")
    uri = sqlite_uri(database)
    with explained(str(folder)):
        patiently(lambda: prepare_database(database))
        if not (os.access(folder, os.W_OK) and os.access(database, os.W_OK)):
            raise PermissionError("permission denied")
        return Store(uri, folder, patiently(lambda: _client(uri)))


def _open_remote(uri: str, folder: Path, away_s: float) -> Store:
    _check_reachable(uri, away_s)
    with explained(uri):
        try:
            client = _client(uri)
            patiently(lambda: client.search_experiments(max_results=1), away_s=away_s)
        except Exception as error:
            raise _unusable(uri, error) from error
    return Store(uri, folder, client)


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, uri)


def _check_reachable(uri: str, away_s: float) -> None:
    reason = unreachable(uri, away_s)
    if reason is not None:
        raise UserError(f"MLFLOW_TRACKING_URI={redact(uri)} cannot be reached: {reason}")


def _unusable(uri: str, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"MLFLOW_TRACKING_URI={redact(uri)} cannot be used: {redact(lines[0][:300])}")

"""Where runs are kept: SQLite under ``mlruns/``, or the server that the environment names."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from seglab.core.errors import UserError
from seglab.tracking.database import ARTIFACTS, DATABASE, prepare_database, sqlite_uri
from seglab.tracking.failures import explained, patiently, redact
from seglab.tracking.locks import is_locked
from seglab.tracking.quiet import settle_mlflow

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Result = TypeVar("Result")

INTERRUPTED = "seglab.interrupted"
PARENT = "mlflow.parentRunId"
_SQLITE = "sqlite:///"
_PROBE_S = 5.0
_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class RunInfo:
    """One run as the store has it; ``metrics`` holds the last value of each."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    start_time: float
    """Seconds since the epoch."""
    end_time: float | None
    tags: dict[str, str] = field(repr=False)
    params: dict[str, str] = field(repr=False)
    metrics: dict[str, float] = field(repr=False)

    @property
    def parent_run_id(self) -> str | None:
        """The ablation or sweep that this run is part of."""
        return self.tags.get(PARENT)


@dataclass(frozen=True)
class Store:
    """An open tracking store; see :func:`open_store`."""

    uri: str
    folder: Path
    """Absolute; holds the database (if local) and what runs keep on this machine."""
    client: MlflowClient = field(repr=False)

    @property
    def is_local(self) -> bool:
        """Whether this is the SQLite database in ``folder``."""
        return self.uri.startswith(_SQLITE)

    def call(self, action: Callable[[], Result]) -> Result:
        """Call into MLflow: waits for a locked database, explains a store that fails."""
        with explained(self.uri):
            return patiently(action)

    def state(self, run_id: str) -> Path:
        """Folder on this machine for what a run needs to continue: journal, lock, checkpoints."""
        return self.folder / "state" / run_id

    def in_use(self, run_id: str) -> bool:
        """Whether a living process of this machine has the run open."""
        return is_locked(self.state(run_id) / "lock")

    def experiment(self, name: str) -> str:
        """Return the id of the experiment ``name``: found, restored from deletion, or created."""
        return self.call(lambda: self._experiment(name))

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = str(self.folder / ARTIFACTS / _folder_name(name)) if self.is_local else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)  # another process was faster
        assert found is not None
        if found.lifecycle_stage == "deleted":
            with suppress(MlflowException):  # restored by another process just now
                self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def find_runs(
        self,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        statuses: Sequence[Status] | None = None,
        parent_run_id: str | None = None,
    ) -> list[RunInfo]:
        """Return the runs that carry all of ``tags``, newest first.

        Args:
            experiment: name; None searches every experiment. An unknown one has no runs.
            tags: exact values.
            statuses: any of these; None takes all.
            parent_run_id: only the children of this run.
        """
        wanted = dict(tags or {}) | ({PARENT: parent_run_id} if parent_run_id else {})
        runs = self.call(lambda: list(self._search(experiment, wanted)))
        return [
            run
            for run in runs
            if (statuses is None or run.status in statuses)
            and all(run.tags.get(key) == value for key, value in wanted.items())
        ]

    def _search(self, experiment: str | None, tags: Mapping[str, str]) -> Iterator[RunInfo]:
        experiments = [
            str(found.experiment_id)
            for found in self._experiments()
            if experiment is None or found.name == experiment
        ]
        token: str | None = None
        while experiments:
            page = self.client.search_runs(
                experiments, _tag_filter(tags), max_results=1000, page_token=token
            )
            yield from map(_run_info, page)
            token = page.token
            if not token:
                return

    def _experiments(self) -> list[Experiment]:
        found: list[Experiment] = []
        token: str | None = None
        while True:
            page = self.client.search_experiments(max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def get_run(self, run_id: str) -> RunInfo:
        """Return one run.

        Raises:
            UserError: there is no such run.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _run_info(self.call(lambda: self.client.get_run(run_id)))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(f"no run '{run_id}' in {redact(self.uri)}") from None

    def metric_history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Return every ``(step, value)`` of one metric, by step."""
        history = self.call(lambda: self.client.get_metric_history(run_id, key))
        return sorted((int(metric.step), float(metric.value)) for metric in history)

    def mark_interrupted(self, run_id: str, reason: str) -> bool:
        """Give a run whose process died its true status; False if it has ended or still lives."""
        if self.get_run(run_id).status != "RUNNING" or self.in_use(run_id):
            return False
        self.call(lambda: self.client.set_tag(run_id, INTERRUPTED, redact(reason)))
        self.call(lambda: self.client.set_terminated(run_id, "KILLED"))
        return True


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
    settle_mlflow()
    uri = default_uri(folder)
    if uri.startswith(_SQLITE):
        database = Path(uri.removeprefix(_SQLITE)).absolute()
        return _open_local(database)
    return _open_remote(uri, folder.resolve())


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


def _open_remote(uri: str, folder: Path) -> Store:
    _check_reachable(uri)
    with explained(uri):
        try:
            client = _client(uri)
            client.search_experiments(max_results=1)
        except Exception as error:
            raise _unusable(uri, error) from error
    return Store(uri, folder, client)


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, uri)


def _check_reachable(uri: str) -> None:
    """Try the address itself: MLflow would retry for minutes."""
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    if parts.hostname is None or scheme not in _DEFAULT_PORTS:
        return
    address = (parts.hostname, parts.port or _DEFAULT_PORTS[scheme])
    try:
        socket.create_connection(address, timeout=_PROBE_S).close()
    except OSError as error:
        raise UserError(
            f"MLFLOW_TRACKING_URI={redact(uri)} cannot be reached: {error.strerror or error}"
        ) from None


def _unusable(uri: str, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"MLFLOW_TRACKING_URI={redact(uri)} cannot be used: {redact(lines[0][:300])}")


def _folder_name(experiment: str) -> str:
    return re.sub(r"[^\w.-]+", "_", experiment).strip("._") or "experiment"


def _tag_filter(tags: Mapping[str, str]) -> str:
    """Narrow the search where MLflow's filter language can quote the value; checked again after."""
    return " and ".join(
        f"tags.`{key}` = '{value}'"
        for key, value in tags.items()
        if not set("'`\\%") & set(key + value)
    )


def _run_info(run: Run) -> RunInfo:
    info: Any = run.info
    return RunInfo(
        run_id=info.run_id,
        name=info.run_name or "",
        experiment_id=str(info.experiment_id),
        status=info.status,
        start_time=(info.start_time or time.time() * 1000) / 1000,
        end_time=None if info.end_time is None else info.end_time / 1000,
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
    )

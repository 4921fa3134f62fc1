"""An open tracking store: experiments, the search for runs, and which process has one open."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from filelock import FileLock, Timeout

from seglab.core.errors import UserError
from seglab.core.machine import is_locked
from seglab.tracking import tags as names
from seglab.tracking.errors import as_user_error, redact, retry_locked

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Result = TypeVar("Result")

SQLITE = "sqlite:///"
ARTIFACTS = "artifacts"
NEW_RUN_S = 60
"""A run without a lock that is younger than this is just being created."""
ACQUIRE_S = 2.0
"""How long a run's lock is waited for: others hold it for a moment only to see if it is free."""
_SHORT_ID = re.compile("[0-9a-f]{4,31}")


class UnknownRun(UserError):
    """The store has no run of this id."""


class RunInUse(UserError):
    """Another living process of this machine has the run open."""


class AlreadyThere(Exception):
    """The store has an experiment of this name."""


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
        return self.tags.get(names.PARENT)


@dataclass(frozen=True)
class Store:
    """An open tracking store; made by :func:`seglab.tracking.connect.open_store`."""

    uri: str
    folder: Path
    """Absolute; holds the database (if local) and what runs keep on this machine."""
    client: MlflowClient = field(repr=False)

    @property
    def is_local(self) -> bool:
        """Whether this is the SQLite database in ``folder``."""
        return self.uri.startswith(SQLITE)

    def call(self, action: Callable[[], Result]) -> Result:
        """Call into MLflow, whose own retries bridge a short outage of a server.

        Raises:
            StoreUnavailable: it does not answer.
            UserError: it is full, read-only, damaged or of another version.
        """
        with as_user_error(self.uri):
            return retry_locked(action)

    def state(self, run_id: str) -> Path:
        """Folder on this machine for what a run needs to continue: its checkpoints."""
        return self.folder / "state" / run_id

    def _lock(self, run_id: str) -> Path:
        """Lock file of a run; where it lies unlocked, the run died here."""
        return self.folder / "state" / f"{run_id}.lock"

    def in_use(self, run_id: str) -> bool:
        """Whether a living process of this machine has the run open."""
        return is_locked(self._lock(run_id))

    def may_continue(self, run: RunInfo) -> bool:
        """Whether this machine may continue a run that did not end by itself.

        Not one that a process has open, here or perhaps on another machine: there a run is
        RUNNING without a lock here, as is one that is being created. Nor one whose status has
        changed since it was read.
        """
        if self.in_use(run.run_id) or self.get_run(run.run_id).status != run.status:
            return False
        if run.status != "RUNNING" or self._lock(run.run_id).exists():
            return True
        # A clock that was set back has runs begin in the future.
        return self.is_local and abs(time.time() - run.start_time) > NEW_RUN_S

    def mark_interrupted(self, run_id: str, reason: str, *, dead: bool = False) -> bool:
        """Give a run whose process died its true status; False if it ended or may still live.

        One of a shared server that was started elsewhere may live there, unless the caller
        knows that its heartbeat stopped (``dead``).
        """
        started_here = self.is_local or self._lock(run_id).exists()
        # The status last: a run puts its end on record before it releases its lock.
        if self.in_use(run_id) or not (started_here or dead):
            return False
        if self.get_run(run_id).status != "RUNNING":
            return False
        self.call(lambda: self.client.set_tag(run_id, names.INTERRUPTED, redact(reason)))
        self.call(lambda: self.client.set_terminated(run_id, "KILLED"))
        return True

    def acquire(self, run_id: str) -> FileLock:
        """Lock a run for this process, until :meth:`release` or its death.

        Raises RunInUse where another process of this machine has it.
        """
        lock = FileLock(self._lock(run_id), timeout=ACQUIRE_S)
        with as_user_error(str(self.folder)):
            try:
                lock.acquire()
            except Timeout:
                raise RunInUse(f"run {run_id} is open in another process") from None
        return lock

    def release(self, lock: FileLock) -> None:
        """Release a run's lock, and remove its state folder unless something is kept there."""
        path = Path(lock.lock_file)
        path.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            path.with_suffix("").rmdir()

    def experiment(self, name: str) -> str:
        """Return the id of the experiment ``name``: found, restored from deletion, or created.

        One that was renamed in the UI is found by the name that it had.
        """
        from mlflow.exceptions import MlflowException

        found = self.call(lambda: self.client.get_experiment_by_name(name))
        if found is None:
            own = {names.EXPERIMENT: name}
            for renamed in self._experiments():
                if own.items() <= renamed.tags.items():
                    return str(renamed.experiment_id)
            with suppress(AlreadyThere):  # another process was faster
                return self.create_experiment(name, names.EXPERIMENT_TAGS | own)
            return self.experiment(name)
        if found.lifecycle_stage == "deleted":
            try:
                self.call(lambda: self.client.restore_experiment(found.experiment_id))
            except MlflowException:  # another process may have restored it
                again = self.call(lambda: self.client.get_experiment(found.experiment_id))
                if again.lifecycle_stage == "deleted":
                    raise
        return str(found.experiment_id)

    def create_experiment(self, name: str, with_tags: Mapping[str, str]) -> str:
        """Create an experiment and return its id; AlreadyThere if one has the name, or had it."""
        from mlflow.exceptions import MlflowException

        folder = re.sub(r"[^\w.-]+", "_", name).strip("._") or "experiment"
        location = str(self.folder / ARTIFACTS / folder) if self.is_local else None
        create = self.client.create_experiment
        try:
            return str(self.call(lambda: create(name, location, tags=dict(with_tags))))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            raise AlreadyThere(name) from None

    def experiments(self) -> dict[str, str]:
        """Return every experiment's name by its id, oldest first."""
        return {str(e.experiment_id): str(e.name) for e in reversed(self._experiments())}

    def experiment_tags(self, key: str) -> list[dict[str, str]]:
        """Return the tags of every experiment that has ``key``, deleted ones included."""
        return [dict(e.tags) for e in self._experiments(deleted=True) if key in e.tags]

    def _experiments(self, *, deleted: bool = False) -> list[Experiment]:
        search, view = self.client.search_experiments, _view(deleted)
        return self._all(lambda size, token: search(view, size, page_token=token))

    def _all(self, search: Callable[[int, str | None], Any]) -> list[Any]:
        """Everything that a search by pages of a size finds."""
        from mlflow.utils import get_results_from_paginated_fn

        find_all: Any = get_results_from_paginated_fn  # untyped in MLflow
        return list(self.call(lambda: find_all(search, 1000)))

    def find_runs(
        self,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        statuses: Sequence[Status] | None = None,
        parent_run_id: str | None = None,
        *,
        deleted: bool = False,
    ) -> list[RunInfo]:
        """Return the runs that carry all of ``tags``, newest first.

        An experiment has the name of now or of when it was made, an unknown one no runs; None
        searches all. ``deleted`` finds deleted runs and experiments too.
        """
        wanted = dict(tags or {}) | ({names.PARENT: parent_run_id} if parent_run_id else {})
        ids = [
            str(found.experiment_id)
            for found in self._experiments(deleted=deleted)
            if experiment in (None, found.name, found.tags.get(names.EXPERIMENT))
        ]
        if not ids:
            return []
        # Narrowed where MLflow's filter language can quote the value; checked again below.
        narrow = " and ".join(
            f"tags.`{key}` = '{value}'"
            for key, value in wanted.items()
            if not set("'`\\%") & set(key + value)
        )
        search, view = self.client.search_runs, _view(deleted)
        runs = self._all(lambda size, token: search(ids, narrow, view, size, page_token=token))
        return [
            run
            for run in map(_run_info, runs)
            if (statuses is None or run.status in statuses)
            and all(run.tags.get(key) == value for key, value in wanted.items())
        ]

    def get_run(self, run_id: str) -> RunInfo:
        """Return one run; ``UnknownRun`` if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _run_info(self.call(lambda: self.client.get_run(run_id)))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UnknownRun(f"no run '{run_id}' in {redact(self.uri)}") from None

    def find_run(self, given: str) -> RunInfo:
        """Return the run of this id, or the only one whose id begins so; else ``UnknownRun``."""
        runs = self.find_runs() if _SHORT_ID.fullmatch(given) else []
        found = [run for run in runs if run.run_id.startswith(given)]
        if len(found) > 1:
            raise UserError(f"{len(found)} runs begin with '{given}': give more of the id")
        return found[0] if found else self.get_run(given)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run that is not open."""
        self.call(lambda: self.client.set_tag(run_id, key, value))

    def metric_history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Return every ``(step, value)`` of one metric, by step."""
        history = self.call(lambda: self.client.get_metric_history(run_id, key))
        return sorted((int(metric.step), float(metric.value)) for metric in history)

    def data_inputs(self, run_id: str) -> list[dict[str, Any]]:
        """Return the data sets that :meth:`RunLog.dataset` logged: name, source, profile."""
        run = self.call(lambda: self.client.get_run(run_id))
        return [
            {
                "name": entry.dataset.name,
                "source": json.loads(entry.dataset.source)["uri"],
                "profile": json.loads(entry.dataset.profile or "{}"),
            }
            for entry in (run.inputs.dataset_inputs if run.inputs else ())
        ]


def runs_link(address: str, experiment_id: str) -> str:
    """Return the link to an experiment's table of runs, as ``tags.view_state`` shows it."""
    view = f"viewStateShareKey={names.VIEW}&workflowType=machine_learning"
    return f"{address}/#/experiments/{experiment_id}/runs?{view}"


def artifact_link(run: RunInfo, path: str) -> str:
    """Return the link from one page of the UI to a file of a run."""
    where = f"#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"
    return f"{where}?workflowType=machine_learning"


def _view(deleted: bool) -> int:
    from mlflow.entities import ViewType

    return int(ViewType.ALL if deleted else ViewType.ACTIVE_ONLY)


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

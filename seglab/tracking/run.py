"""One open run: what it logs, how it ends, how it continues after a crash."""

from __future__ import annotations

import getpass
import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.core.documents import json_text
from seglab.tracking import tags as names
from seglab.tracking.environment import environment_tags
from seglab.tracking.errors import StoreUnavailable, redact
from seglab.tracking.store import RunInUse, Store

if TYPE_CHECKING:
    from filelock import FileLock
    from matplotlib.figure import Figure

_MAX_ERROR = 2000
_MAX_DIGEST = 36
COORDINATORS = ("ablation", "sweep")
"""Kinds of runs that train nothing, and that several processes may have open at once."""


class RunLog:
    """Logs one run. Made by :func:`start_run` or :func:`resume_run`.

    As a context manager it gives the run its true status if nothing else did: FINISHED,
    interrupted on Ctrl-C or where the store became unavailable, FAILED on any other exception.

    After a resume, a metric that the store has for a step is not logged for it again, and a
    param keeps its first value. A thread of MLflow logs ``system/…`` (processor, memory, GPU)
    every ten seconds, but not for runs that only coordinate others.
    """

    def __init__(
        self, store: Store, run_id: str, tags: Mapping[str, str], *, resumed: bool = False
    ) -> None:
        self.store = store
        self.run_id = run_id
        self.state = store.state(run_id)
        self._is_sampled = tags.get(names.KIND) not in COORDINATORS
        self._lock: FileLock | None = None
        with suppress(*() if self._is_sampled else (RunInUse,)):
            self._lock = store.acquire(run_id)
        self._steps: dict[str, set[int]] = {}
        self._known_params: frozenset[str] = frozenset()
        self._resumed = resumed
        self._ended = False
        self._ended_at: float | None = None  # before it was opened again
        self._monitor: Any = None

    def _start_monitor(self) -> None:
        from mlflow import environment_variables as variables
        from mlflow.system_metrics import system_metrics_monitor

        mlflow: Any = variables  # untyped
        if self._is_sampled and mlflow.MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            make: Any = system_metrics_monitor.SystemMetricsMonitor
            options = {"resume_logging": self._resumed, "tracking_uri": self.store.uri}
            self._monitor = make(self.run_id, **options)
            self._monitor.start()

    def params(self, values: Mapping[str, Any]) -> None:
        """Log params, as text; those that the run already has are left as they are."""
        from mlflow.entities import Param

        new = {key: _text(value) for key, value in values.items() if key not in self._known_params}
        self._call("log_batch", params=[Param(*item) for item in new.items()])
        self._known_params |= new.keys()

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, as text; None values are left out."""
        from mlflow.entities import RunTag

        texts = {key: _text(value) for key, value in values.items() if value is not None}
        self._call("log_batch", tags=[RunTag(*item) for item in texts.items()])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of one step in one call; NaN, infinite and already logged ones are dropped.

        MLflow stores infinity as 1.8e308 and sorts NaN as a number.
        """
        from mlflow.entities import Metric

        stamp = time.time_ns() // 1_000_000  # one for all tries: MLflow drops what it has already
        rows = [
            Metric(key, float(value), stamp, step)
            for key, value in values.items()
            if math.isfinite(value) and step not in self._logged_steps(key)
        ]
        self._call("log_batch", metrics=rows)
        for row in rows:
            self._steps[row.key].add(step)

    def _logged_steps(self, key: str) -> set[int]:
        is_shared = not self._is_sampled  # by processes that may log at any time
        if key not in self._steps or is_shared:
            is_known = self._resumed or is_shared
            history = self.store.metric_history(self.run_id, key) if is_known else []
            self._steps[key] = {step for step, _ in history}
        return self._steps[key]

    def dataset(
        self, name: str, digest: str, source: str, context: str = "training",
        profile: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Log the data set as an input of the run.

        ``digest`` is its content hash, of which MLflow keeps 36 characters; ``source`` has no path
        of a home folder; ``context`` is what it was used for, ``profile`` counts what it holds.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        where, counts = json.dumps({"uri": source}), json.dumps(dict(profile or {}))
        data = Dataset(name, digest[:_MAX_DIGEST], "local", where, profile=counts)
        inputs = [DatasetInput(data, [InputTag(names.DATA_CONTEXT, context)])]
        try:
            self._call("log_inputs", inputs)
        except MlflowException:
            # Of two processes that log a new data set at once, MLflow refuses one; a second
            # attempt finds it.
            self._call("log_inputs", inputs)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or a whole folder's content, under ``folder`` of the run's artifacts."""
        if not path.exists():
            raise FileNotFoundError(path)
        name = "log_artifacts" if path.is_dir() else "log_artifact"
        self._call(name, str(path), folder or None)

    def text(self, content: str, name: str) -> None:
        """Log ``content`` as the artifact ``name``, which may have folders in it."""
        self._call("log_text", content, name)

    def json(self, content: Any, name: str) -> None:
        """Log ``content`` as a JSON artifact, with null for a number that is not finite."""
        self.text(f"{json_text(content)}\n", name)

    def figure(self, figure: Figure, name: str) -> None:
        """Log a Matplotlib figure; the suffix of ``name`` chooses the format."""
        self._call("log_figure", figure, name, save_kwargs={"dpi": 100})

    def _call(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of MLflow's client about this run."""
        call = getattr(self.store.client, method)
        self.store.call(lambda: call(self.run_id, *arguments, **options))

    def finish(self, *, only_looked: bool = False) -> None:
        """End the run as FINISHED; one that was ``only_looked`` at again ended when it had."""
        self._end("FINISHED", {}, self._ended_at if only_looked else None)

    def fail(self, error: BaseException | str) -> None:
        """End the run as FAILED, with the error as a tag."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        told = redact(text)[:_MAX_ERROR]
        self._end("FAILED", {names.ERROR: told, names.NOTE: f"Failed: {told}"})

    def prune(self, epoch: int) -> None:
        """End the run as KILLED because a search stopped it at ``epoch``."""
        self._end("KILLED", {names.PRUNED: str(epoch)})

    def interrupt(self, reason: str) -> None:
        """End the run as KILLED because it was stopped from outside; it can be resumed."""
        self._end("KILLED", {names.INTERRUPTED: redact(reason)[:_MAX_ERROR]})

    def _end(self, status: str, tags: dict[str, str], at: float | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            if self._monitor is not None:
                self._monitor.finish()
            if tags:
                self.tags(tags)
            if status == "FINISHED":  # a run that several machines share may carry it from before
                self._remove_tag(names.INTERRUPTED)
            self._call("set_terminated", status, at and round(1000 * at))
        except BaseException:
            # The lock file stays, unlocked: the run ended here and its end is not on record.
            if self._lock is not None:
                self._lock.release()
            raise
        if self._lock is not None:
            self.store.release(self._lock)

    def _remove_tag(self, key: str) -> None:
        from mlflow.exceptions import MlflowException

        if key not in self.store.get_run(self.run_id).tags:
            return
        try:
            self._call("delete_tag", key)
        except MlflowException as error:  # another machine was faster
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, StoreUnavailable):
            self._monitor = None  # its thread ends by itself: it finds no store either
            with suppress(StoreUnavailable):  # else it is found as interrupted by its lock file
                self.interrupt(str(error))
        elif isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            self.interrupt(type(error).__name__)
        else:
            self.fail(error)

    def _reopen(self) -> None:
        """Set a run that exists to running, and forget how it ended."""
        run = self.store.get_run(self.run_id)
        self._ended_at = run.end_time if run.status == "FINISHED" else None
        for key in set(names.END_TAGS) & run.tags.keys():
            self._remove_tag(key)
        self._call("update_run", status="RUNNING")
        self._known_params = frozenset(run.params)
        self._start_monitor()


def start_run(
    store: Store,
    experiment: str,
    run_name: str,
    tags: Mapping[str, Any] | None = None,
    parent_run_id: str | None = None,
) -> RunLog:
    """Create a run in ``experiment``, which is created if new, and open it.

    ``tags`` go before those that say which code ran, who started it, and how.
    """
    given = {key: _text(value) for key, value in (tags or {}).items() if value is not None}
    texts = environment_tags() | _source_tags() | given
    if parent_run_id is not None:
        texts[names.PARENT] = parent_run_id
    experiment_id = store.experiment(experiment)
    run = store.call(lambda: store.client.create_run(experiment_id, tags=texts, run_name=run_name))
    log = RunLog(store, str(run.info.run_id), texts)
    log._start_monitor()
    return log


def resume_run(store: Store, run_id: str) -> RunLog:
    """Open a run again after it was interrupted, or its process died.

    Raises RunInUse where a living process has it open, and it is none of ``COORDINATORS``.
    """
    log = RunLog(store, run_id, store.get_run(run_id).tags, resumed=True)
    try:
        log._reopen()
    except BaseException as error:
        with suppress(Exception):  # it may be on record as running by now
            log.interrupt(f"{type(error).__name__} while it was opened again")
        raise
    return log


def _source_tags() -> dict[str, str]:
    """Return what MLflow's own table shows as user and source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        user = "unknown"
    return {
        names.USER: user,
        names.SOURCE: Path(sys.argv[0]).name or "python",
        names.SOURCE_TYPE: "LOCAL",
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

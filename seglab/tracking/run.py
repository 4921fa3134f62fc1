"""One open run: what it logs, how it ends, how it goes on after a crash."""

from __future__ import annotations

import getpass
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seglab.core.locks import FileLock
from seglab.tracking.failures import StoreAway, redact
from seglab.tracking.messages import (
    artifact_message,
    batch_message,
    dataset_message,
    status_message,
)
from seglab.tracking.outbox import Outbox
from seglab.tracking.store import INTERRUPTED, PARENT, Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = "seglab.error"
PRUNED = "seglab.pruned_at_epoch"
_END_TAGS = (ERROR, PRUNED, INTERRUPTED)
_LAST_WAIT_S = 30.0
_MAX_ERROR = 2000


class RunLog:
    """Logs one run. Made by :func:`start_run` or :func:`resume_run`.

    As a context manager it ends the run truthfully if nobody else did: FINISHED,
    interrupted on Ctrl-C or where a store stays away, FAILED on any other exception.

    While the store is away everything is kept under ``state`` and sent later, in
    order. After a resume, a metric that the store has for a step is not logged
    for it again, and a param keeps its first value.
    """

    def __init__(self, store: Store, run_id: str, lock: FileLock) -> None:
        self.store = store
        self.run_id = run_id
        self.state = store.state(run_id)
        self._lock = lock
        self._outbox = Outbox(store.client, store.uri, run_id, self.state)
        self._steps: dict[str, set[int]] = {}
        self._known_params: frozenset[str] = frozenset()
        self._resumed = False
        self._ended = False

    def params(self, values: Mapping[str, Any]) -> None:
        """Log params, as text; those that the run already has are left as they are."""
        new = {key: _text(value) for key, value in values.items() if key not in self._known_params}
        self._outbox.put(batch_message(params=new))
        self._known_params |= new.keys()

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, as text; None values are left out."""
        texts = {key: _text(value) for key, value in values.items() if value is not None}
        self._outbox.put(batch_message(tags=texts))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of one step in one call; NaN, infinite and already logged ones are dropped.

        MLflow stores infinity as 1.8e308 and sorts NaN as a number.
        """
        new = {
            key: float(value)
            for key, value in values.items()
            if math.isfinite(value) and step not in self._logged_steps(key)
        }
        if new:
            self._outbox.put(batch_message(metrics=new, step=step))
        for key in new:
            self._steps[key].add(step)

    def _logged_steps(self, key: str) -> set[int]:
        if key not in self._steps:
            in_store = self.store.metric_history(self.run_id, key) if self._resumed else []
            self._steps[key] = {step for step, _ in in_store} | {
                row[3]
                for message in self._outbox.pending
                if message["do"] == "batch"
                for row in message["metrics"]
                if row[0] == key
            }
        return self._steps[key]

    def dataset(
        self,
        name: str,
        digest: str,
        source: str,
        context: str = "training",
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Log the data set as an input of the run.

        Args:
            name: as people call it.
            digest: its content hash; MLflow keeps the first 36 characters.
            source: where it came from, without anybody's home folder in it.
            context: what it was used for.
            profile: counts worth showing beside it.
        """
        where, counts = json.dumps({"uri": source}), json.dumps(dict(profile or {}))
        self._outbox.put(dataset_message(name, digest, where, context, counts))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or a whole folder's content, under ``folder`` of the run's artifacts."""
        if not path.exists():
            raise FileNotFoundError(path)
        self._outbox.put(artifact_message(path.resolve(), folder))

    def text(self, content: str, name: str) -> None:
        """Log ``content`` as the artifact ``name``, which may have folders in it."""
        self._written(name, lambda path: path.write_text(content, encoding="utf-8"))

    def json(self, content: Any, name: str) -> None:
        """Log ``content`` as a JSON artifact."""
        self.text(json.dumps(content, indent=2) + "\n", name)

    def figure(self, figure: Figure, name: str, dpi: int = 100) -> None:
        """Log a Matplotlib figure; the suffix of ``name`` chooses the format."""
        self._written(name, lambda path: figure.savefig(path, dpi=dpi))

    def _written(self, name: str, write: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
            path = Path(folder) / Path(name).name
            write(path)
            self.artifact(path, "" if Path(name).parent == Path() else str(Path(name).parent))

    def finish(self) -> None:
        """End the run as FINISHED."""
        self._end("FINISHED", {})

    def fail(self, error: BaseException | str) -> None:
        """End the run as FAILED, with the error as a tag."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._end("FAILED", {ERROR: redact(text)[:_MAX_ERROR]})

    def prune(self, epoch: int) -> None:
        """End the run as KILLED because a search gave it up at ``epoch``."""
        self._end("KILLED", {PRUNED: str(epoch)})

    def interrupt(self, reason: str) -> None:
        """End the run as KILLED because somebody stopped it; it can be resumed."""
        self._end("KILLED", {INTERRUPTED: redact(reason)[:_MAX_ERROR]})

    def _end(self, status: str, tags: dict[str, str]) -> None:
        if self._ended:
            return
        self._ended = True
        is_told = False
        try:
            if tags:
                self.tags(tags)
            # Of a run that several machines share one may have been interrupted before.
            past = [INTERRUPTED] if status == "FINISHED" else []
            self._outbox.put(status_message(status, past))
            is_told = self._outbox.flush(_LAST_WAIT_S)
            if not is_told:
                self._tell_pending()
        finally:
            # A lock file that nobody holds says: it ran here and its end is not on record.
            self.store.leave(self._lock) if is_told else self._lock.release()

    def _tell_pending(self) -> None:
        print(
            f"warning: {redact(self.store.uri)} does not answer; {len(self._outbox.pending)} "
            f"messages of run {self.run_id} are kept in {self.state} and can be sent later",
            file=sys.stderr,
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            self.interrupt(type(error).__name__)
        elif isinstance(error, StoreAway):  # nothing is wrong with the run
            self.interrupt(str(error))
        else:
            self.fail(error)

    def _go_on(self) -> None:
        """Open a run that exists: send what was kept, forget how it ended."""
        self._outbox.flush(_LAST_WAIT_S)
        client, run = self.store.client, self.store.get_run(self.run_id)
        for key in set(_END_TAGS) & run.tags.keys():
            self.store.call(lambda key=key: client.delete_tag(self.run_id, key))  # type: ignore[misc]
        self.store.call(lambda: client.update_run(self.run_id, status="RUNNING"))
        self._known_params = frozenset(run.params)
        self._resumed = True


def start_run(
    store: Store,
    experiment: str,
    run_name: str,
    tags: Mapping[str, Any] | None = None,
    parent_run_id: str | None = None,
) -> RunLog:
    """Create a run in ``experiment`` (created too if new) and open it.

    Raises:
        UserError: the store cannot be used.
    """
    texts = _source_tags() | {
        key: _text(value) for key, value in (tags or {}).items() if value is not None
    }
    if parent_run_id is not None:
        texts[PARENT] = parent_run_id
    experiment_id = store.experiment(experiment)
    run = store.call(lambda: store.client.create_run(experiment_id, tags=texts, run_name=run_name))
    run_id = str(run.info.run_id)
    return RunLog(store, run_id, store.claim(run_id))


def resume_run(store: Store, run_id: str) -> RunLog:
    """Open a run again after it was interrupted, or its process died.

    Raises:
        UnknownRun: no such run.
        RunInUse: a living process has it open.
    """
    store.get_run(run_id)
    lock = store.claim(run_id)
    log = RunLog(store, run_id, lock)
    try:
        log._go_on()
    except BaseException as error:
        # It may be on record as running by now.
        with suppress(Exception):
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
        "mlflow.user": user,
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

"""One queue for arms and trials: what is to be done, and which worker does the next item.

The items of an experiment are the trials of one Optuna study, in Optuna's own storage with its
heartbeats: SQLite beside the runs for the processes of one machine, PostgreSQL for several
machines. An item is known by its key. A trial that dies or is interrupted leaves its item open,
and the next worker acquires it under a new trial with the same parameters; its training goes on
from the checkpoint, because a run is found by what it computes and not by its trial.
"""

from __future__ import annotations

import logging
import socket
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from seglab.core.errors import UserError
from seglab.core.machine import is_locked
from seglab.tracking.errors import as_user_error, redact, retry_locked, unreachable

ITEM, OWNER, ERROR, INTERRUPTED, SURPLUS = "item", "owner", "error", "interrupted", "surplus"
"""User attributes of a trial."""
DATABASE = "optuna.db"
POSTGRES = "postgresql+psycopg://"
MAX_RETRIES = 3
"""Of an item whose worker died."""
_LOCKS = "workers"
_BUSY_S = 60
_OPEN_S = 120

Params = Mapping[str, Any]
Objective = Callable[[Trial, str], Any]


class ItemFailed(Exception):
    """An item failed for a reason that is its own: the queue goes on."""


class _Surplus(Exception):
    """A trial without an item of its own: two workers asked for the same one."""


def open_storage(url: str | None, folder: Path, heartbeat_s: int) -> RDBStorage:
    """Open Optuna's storage, made if absent; safe for several processes at once.

    Args:
        url: ``postgresql+psycopg://…``; None takes SQLite in ``folder``.
        folder: of this machine's database and locks.
        heartbeat_s: seconds between signs of life; three without one, and a trial is stale.

    Raises:
        UserError: it cannot be reached, read or written.
    """
    _configure_optuna()
    is_local = url is None
    where = f"sqlite:///{folder / DATABASE}" if url is None else url
    if not is_local and not where.startswith(POSTGRES):
        raise UserError(
            f"search.storage: {redact(where)} is not of the form {POSTGRES}user@host/db"
        )
    if (reason := unreachable(where)) is not None:
        raise UserError(f"search.storage: {redact(where)} cannot be reached: {reason}")

    def connect() -> RDBStorage:
        with FileLock(folder / ".optuna.lock", timeout=_OPEN_S):
            return RDBStorage(
                where,
                engine_kwargs={"connect_args": {"timeout": _BUSY_S}}
                if is_local
                else {"pool_pre_ping": True},
                heartbeat_interval=heartbeat_s,
                grace_period=3 * heartbeat_s,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
            )

    with as_user_error(f"search.storage: {redact(where)}"):
        folder.mkdir(parents=True, exist_ok=True)
        return retry_locked(connect)


def _configure_optuna() -> None:
    """Keep Optuna's log lines and its warnings about experimental features off the screen."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Worker:
    """This process among those that share a queue, known by a lock that dies with it."""

    name: str
    lock: FileLock = field(repr=False)

    @classmethod
    def register(cls, folder: Path) -> Worker:
        """Acquire a lock of its own in ``folder``."""
        (folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        name = f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        lock = FileLock(folder / _LOCKS / f"{name}.lock")
        lock.acquire()
        return cls(name, lock)

    def close(self) -> None:
        """Release the lock."""
        path = Path(self.lock.lock_file)
        self.lock.release()
        path.unlink(missing_ok=True)

    def is_dead(self, other: str) -> bool:
        """Whether another worker of this machine and folder has died."""
        path = Path(self.lock.lock_file).with_name(f"{other}.lock")
        if other == self.name or not other.startswith(f"{socket.gethostname()}-"):
            return False
        # Without a file it closed in good order since, or is of another folder: heartbeats tell.
        return path.exists() and not is_locked(path)


@dataclass(frozen=True)
class State:
    """What is known of one item."""

    word: str
    """``open``, ``active``, ``done`` or ``failed``."""
    last: FrozenTrial | None = None
    """Its newest trial."""

    @property
    def error(self) -> str:
        """Why it failed."""
        assert self.last is not None
        return str(self.last.user_attrs.get(ERROR, f"its worker died {MAX_RETRIES + 1} times"))


class Queue:
    """The items of one Optuna study, as one worker sees them.

    Args:
        study: of the items.
        worker: this process.
        since: when the command started: what failed before it is tried again.
    """

    def __init__(self, study: optuna.Study, worker: Worker, since: datetime) -> None:
        self.study, self.worker, self.since = study, worker, since

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial that has an item, as the storage has it now; not to be changed."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if ITEM in trial.user_attrs and SURPLUS not in trial.user_attrs
        ]

    def states(self) -> dict[str, State]:
        """State of every item that was ever acquired."""
        attempts: dict[str, list[FrozenTrial]] = {}
        for trial in self.trials:
            attempts.setdefault(str(trial.user_attrs[ITEM]), []).append(trial)
        return {key: self._state(trials) for key, trials in attempts.items()}

    def _state(self, trials: list[FrozenTrial]) -> State:
        for trial in trials:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                return State("done", trial)
        last = trials[-1]
        if last.state in (TrialState.RUNNING, TrialState.WAITING):
            return State("active", last)
        fresh = [t for t in trials if t.datetime_complete and t.datetime_complete >= self.since]
        deaths = sum(not t.user_attrs.keys() & {ERROR, INTERRUPTED} for t in fresh)
        is_failed = (ERROR in last.user_attrs and last in fresh) or deaths > MAX_RETRIES
        return State("failed" if is_failed else "open", last)

    def run_next(
        self,
        keys: Iterable[str],
        objective: Objective,
        new: Callable[[str], tuple[Params, Mapping[str, Any]]],
    ) -> bool:
        """Do one item, if one is waiting or open; False where there is none.

        Args:
            keys: of the items that are to be done, in their order.
            objective: does an item and returns its value; raises ``optuna.TrialPruned`` for one
                that is stopped early, :class:`ItemFailed` for one that failed.
            new: fixed parameters and user attributes of an item that is begun.

        Raises:
            KeyboardInterrupt: the item was interrupted, and is open again.
        """
        self._release_dead()
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            states = self.states()
            key = next((k for k in keys if k not in states or states[k].word == "open"), None)
            if key is None:
                return False
            self._enqueue(key, states.get(key), new)
        self.study.optimize(partial(self._do, objective), n_trials=1, catch=(ItemFailed, _Surplus))
        return True

    def _enqueue(
        self,
        key: str,
        state: State | None,
        new: Callable[[str], tuple[Params, Mapping[str, Any]]],
    ) -> None:
        params, attributes = new(key)
        if state is not None and state.last is not None:
            params = {**params, **state.last.params}
            ended = {ERROR, INTERRUPTED, OWNER}
            kept = {k: v for k, v in state.last.user_attrs.items() if k not in ended}
            attributes = {**attributes, **kept}
        self.study.enqueue_trial(dict(params), user_attrs={**attributes, ITEM: key})

    def _do(self, objective: Objective, trial: Trial) -> Any:
        key = trial.user_attrs.get(ITEM)
        if key is None or self._is_duplicate(trial.number, key):
            trial.set_user_attr(SURPLUS, True)
            raise _Surplus
        trial.set_user_attr(OWNER, self.worker.name)
        try:
            return objective(trial, key)
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            raise
        except ItemFailed as error:
            trial.set_user_attr(ERROR, str(error))
            raise

    def _is_duplicate(self, number: int, key: str) -> bool:
        """Whether an earlier trial does the same item, or has done it."""
        return any(
            trial.user_attrs[ITEM] == key
            and trial.number < number
            and trial.state != TrialState.FAIL
            for trial in self.trials
        )

    def is_active(self) -> bool:
        """Whether another worker does an item now."""
        return any(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in self.trials)

    def _release_dead(self) -> None:
        """Open the items of workers that died: of this machine at once, of others when stale."""
        for trial in self.trials:
            owner = trial.user_attrs.get(OWNER)
            if trial.state == TrialState.RUNNING and owner and self.worker.is_dead(owner):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        fail_stale_trials(self.study)

"""One queue for arms and trials: what is to be done, and which worker does the next item.

The items of an experiment are the trials of one Optuna study, in Optuna's own storage with its
heartbeats. A trial whose worker dies or is interrupted leaves its item open: the next worker
acquires it under a new trial with the same parameters, and its run goes on from the checkpoint.
"""

from __future__ import annotations

import logging
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.machine import is_locked
from seglab.core.study import Study
from seglab.tracking.errors import (
    StoreUnavailable,
    as_user_error,
    is_out_of_space,
    print_traceback,
    redact,
    retry_locked,
    unreachable,
)

ITEM, OWNER, INTERRUPTED, SURPLUS = "item", "owner", "interrupted", "surplus"
ERROR, OUR_FAULT = "error", "our_fault"  # user attributes of a trial too
DATABASE = "optuna.db"
WHERE = f"the queue ({DATABASE}, or what the key storage names)"
MAX_RETRIES = 3  # of an item whose worker died
DIED = f"its worker died {MAX_RETRIES + 1} times"
ENDED = ("done", "failed")
DONE, SPENT = 0, 3  # how a queue ended
_BUSY_S, _OPEN_S, _TABLES_S, _IDLE_S, _OLD_S = 60, 120, 3.0, 1.0, 86_400
_MAX_ERROR = 1000

Params = Mapping[str, Any]


class Items(Protocol):
    """What is to be done: the runs of an ablation, or the trials of a search."""

    def keys(self, states: Mapping[str, State]) -> Iterable[str]:
        """Keys of the items, in their order; asked before each, with what is known of all."""

    def new(self, key: str) -> tuple[Params, Mapping[str, Any]]:
        """Fixed parameters and user attributes of an item that is begun."""

    def do(self, trial: Trial, key: str) -> Any:
        """Do an item and return its value; see :meth:`Queue.run` for its errors."""


class NotOurs(Exception):
    """An item that another trial does, or that is open for a process with other items."""


class _Failed(Exception):
    """A trial fails without ending the queue."""


def open_storage(url: str | None, folder: Path, heartbeat_s: int) -> RDBStorage:
    """Open Optuna's storage, made if absent; safe for several processes at once.

    ``url`` is ``postgresql+psycopg://…``, or None for SQLite in ``folder``. A trial is stale
    after three times ``heartbeat_s`` without a heartbeat. Raises UserError where the storage
    cannot be reached, read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    where = f"sqlite:///{folder / DATABASE}"
    engine: dict[str, Any] = {"connect_args": {"timeout": _BUSY_S}}
    if url is not None:
        where, engine = url, {"pool_pre_ping": True}
        if find_spec("psycopg") is None:
            package = "pip install 'psycopg[binary]' (the extra 'postgres')"
            raise UserError(f"storage: {redact(url)} needs the package psycopg: {package}")
    if (reason := unreachable(where)) is not None:
        raise UserError(f"storage: {redact(where)} cannot be reached: {reason}")

    beats: Any = {"heartbeat_interval": heartbeat_s, "grace_period": 3 * heartbeat_s}

    def connect() -> RDBStorage:
        with FileLock(folder / ".optuna.lock", timeout=_OPEN_S):
            try:
                return RDBStorage(where, engine, **beats)
            except (IntegrityError, ProgrammingError):  # another machine makes the tables now
                time.sleep(_TABLES_S)
                return RDBStorage(where, engine, **beats)

    with as_user_error(where):
        folder.mkdir(parents=True, exist_ok=True)
        return retry_locked(connect)


def _storage_of(study: Study, folder: Path) -> RDBStorage:
    return open_storage(study.storage, folder, study.search.heartbeat_s if study.search else 20)


@contextmanager
def one_at_a_time(study: Study, folder: Path) -> Iterator[None]:
    """Let one process in, of all machines that share the storage of an experiment."""
    if study.storage is None:
        with FileLock(folder / ".experiment.lock"):
            yield
        return
    storage = _storage_of(study, folder)
    lock = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
    with as_user_error(storage.url), storage.engine.begin() as connection:
        connection.execute(lock, {"name": f"seglab {study.name}"})
        yield


class Worker:
    """This process among those that share a queue, known by a lock in the store's folder."""

    def __init__(self, folder: Path) -> None:
        self.name = f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        self._path = folder / "workers" / f"{self.name}.lock"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._path)

    def __enter__(self) -> Worker:
        self._lock.acquire()
        for path in self._path.parent.glob("*.lock"):
            # Younger ones of killed workers tell that their items are open.
            with suppress(FileNotFoundError):  # another worker was faster
                if time.time() - path.stat().st_mtime > _OLD_S and not is_locked(path):
                    path.unlink()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        self._path.unlink(missing_ok=True)

    def is_here(self, other: str) -> bool:
        """Whether another worker is of this machine."""
        return other.startswith(f"{socket.gethostname()}-")

    def is_dead(self, other: str) -> bool:
        """Whether another worker of this machine and folder has died."""
        path = self._path.with_name(f"{other}.lock")
        if other == self.name or not self.is_here(other):
            return False
        # Without a file it closed in good order since, or is of another folder: heartbeats tell.
        return path.exists() and not is_locked(path)


@dataclass(frozen=True)
class State:
    """What is known of one item."""

    word: str  # open, active, done or failed
    last: FrozenTrial  # the newest, or the one that did it

    @property
    def error(self) -> str:
        """Why it has no result."""
        return str(self.last.user_attrs.get(ERROR, DIED if self.word == "failed" else "not done"))


class Queue:
    """The items of one Optuna study, as one worker sees them.

    ``before`` are the numbers of the trials that had ended when the command started, or now; those
    that failed are tried again.
    """

    def __init__(
        self, study: optuna.Study, worker: Worker, before: frozenset[int] | None = None
    ) -> None:
        ended = (t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished())
        self.before = frozenset(ended) if before is None else before
        self.study, self.worker = study, worker
        self._is_fit = True

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial that has an item, as the storage has it now; not to be changed."""
        with as_user_error(WHERE):
            trials = retry_locked(lambda: self.study.get_trials(deepcopy=False))
        return [t for t in trials if ITEM in t.user_attrs and SURPLUS not in t.user_attrs]

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
        if not last.state.is_finished():
            return State("active", last)
        fresh = [t for t in trials if t.state.is_finished() and t.number not in self.before]
        deaths = sum(not t.user_attrs.keys() & {ERROR, INTERRUPTED} for t in fresh)
        is_failed = (ERROR in last.user_attrs and last in fresh) or deaths > MAX_RETRIES
        return State("failed" if is_failed else "open", last)

    def is_done(self, keys: Callable[[Mapping[str, State]], Iterable[str]]) -> bool:
        """Whether every item is done or failed; see :meth:`Items.keys`."""
        states = self.states()
        return all(key in states and states[key].word in ENDED for key in keys(states))

    def is_active(self) -> bool:
        """Whether another worker does an item now."""
        return any(not trial.state.is_finished() for trial in self.trials)

    def run(
        self, items: Items, stop: Callable[[], bool], look: Callable[[], None] = lambda: None
    ) -> int:
        """Do items, and wait while others are at work on some, until each is done or failed.

        An error fails its item, and the queue goes on; ``optuna.TrialPruned`` ends one early.
        ``stop`` is asked before each item, ``look`` is called after each, and while waiting.

        Returns:
            ``DONE``; ``SPENT`` after an error that was not expected: memory may be in pieces,
            and a GPU's error stays with its process, so another one should go on.

        Raises:
            KeyboardInterrupt: an item was interrupted, and is open again.
            StoreUnavailable: nothing can be recorded.
            Exception: the disk is full.
        """
        while not stop():
            with as_user_error(WHERE):
                is_busy = self.run_next(items)
            if not is_busy:
                if self.is_done(items.keys):
                    return DONE
                time.sleep(_IDLE_S)
            look()
            if not self._is_fit:
                self._is_fit = True
                return SPENT
        return DONE

    def run_next(self, items: Items) -> bool:
        """Do one item, if one is waiting or open; False where there is none now."""
        for trial in self.trials:
            owner = trial.user_attrs.get(OWNER)
            if trial.state == TrialState.RUNNING and owner and self.worker.is_dead(owner):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        fail_stale_trials(self.study)  # Optuna does when a trial starts, and there may be none
        states = self.states()
        open_keys = (k for k in items.keys(states) if k not in states or states[k].word == "open")
        key = next(open_keys, None)
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if key is None:
                return False
            params, attributes = items.new(key)
            if (state := states.get(key)) is not None:
                ended = {ERROR, OUR_FAULT, INTERRUPTED, OWNER}
                kept = {k: v for k, v in state.last.user_attrs.items() if k not in ended}
                params, attributes = {**params, **state.last.params}, {**attributes, **kept}
            self.study.enqueue_trial(dict(params), user_attrs={**attributes, ITEM: key})
        self.study.optimize(lambda trial: self._do(items, trial), n_trials=1, catch=(_Failed,))
        return True

    def _do(self, items: Items, trial: Trial) -> Any:
        key = trial.user_attrs.get(ITEM)
        try:
            earlier = (
                t for t in self.trials if t.number < trial.number and t.user_attrs[ITEM] == key
            )
            if key is None or any(one.state != TrialState.FAIL for one in earlier):
                raise NotOurs
            trial.set_user_attr(OWNER, self.worker.name)
            return items.do(trial, key)
        except NotOurs:
            trial.set_user_attr(SURPLUS, True)
            raise _Failed("another trial or process has its item") from None
        except (optuna.TrialPruned, StoreUnavailable, StorageInternalError):
            raise
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            raise
        except Exception as error:
            if is_out_of_space(error):
                raise
            reason = str(error)
            if not isinstance(error, UserError | TrainingDiverged):
                print_traceback()
                self._is_fit = False
                trial.set_user_attr(OUR_FAULT, True)
                reason = f"{type(error).__name__}: {error}"
            reason = " ".join(redact(reason).split())[:_MAX_ERROR]
            trial.set_user_attr(ERROR, reason)
            raise _Failed(reason) from error


def open_queue(
    study: Study, folder: Path, name: str, before: frozenset[int] | None = None
) -> Queue:
    """Open the queue of an ablation's or a search's items, made if absent in the store's folder."""
    search = study.search
    two = search is not None and search.second_objective != "none"
    items = optuna.create_study(
        storage=_storage_of(study, folder),
        study_name=name,
        directions=["maximize", "minimize"] if two else ["maximize"],
        load_if_exists=True,
    )
    return Queue(items, Worker(folder), before)

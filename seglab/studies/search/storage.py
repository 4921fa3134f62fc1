"""Where the study is kept: a journal file for one machine, PostgreSQL for several."""

from __future__ import annotations

import importlib.util
import logging
import socket
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # exported nowhere

from seglab.core.errors import UserError
from seglab.core.locks import FileLock
from seglab.studies.search.patience import PatientStorage, StudyAway, through_restarts
from seglab.tracking.errors import known_reason, redact, unreachable

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

POSTGRES = "postgresql+psycopg://"
_LOCK_S = 120.0
_GRACE_HEARTBEATS = 3
Requeue = Callable[[optuna.Study, optuna.trial.FrozenTrial], None]
Lock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class StudyStorage:
    """An open storage and the locks that guard what is decided over it."""

    backend: BaseStorage
    lock: Lock = field(repr=False)
    """``with lock("claim"):`` — one process at a time, on all machines; dies with its holder."""
    folder: Path
    """On this machine: of locks, and of the journal if there is one."""
    home: str
    """Names this machine and folder among those that share a database: what was started
    elsewhere cannot be continued here."""

    @property
    def beats(self) -> bool:
        """Whether the storage keeps heartbeats, so that other machines notice a death."""
        return isinstance(self.backend, RDBStorage)


def open_storage(
    url: str | None,
    name: str,
    folder: Path,
    heartbeat_s: int,
    requeue: Requeue,
    away_s: float = 0.0,
) -> StudyStorage:
    """Open the storage of the study ``name``, made if absent.

    Args:
        url: ``postgresql+psycopg://…``; None takes a journal in ``folder``.
        name: of the study.
        folder: of this machine's journals and locks.
        heartbeat_s: seconds between signs of life (PostgreSQL).
        requeue: called with each trial of a machine that went silent, once it has failed.
        away_s: seconds to wait for a server that was there when the command began.

    Raises:
        UserError: cannot be reached, read or written, or was made by another Optuna.
    """
    settle_optuna()
    home = f"{socket.gethostname()}:{folder}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from None
    if url is None:
        return StudyStorage(
            _open_journal(folder / f"{name}.log"), _file_lock(folder, name), folder, home
        )
    _check_postgres(url, away_s)
    try:
        # From the beginning, if it is restarted in between.
        backend, lock = through_restarts(_connect, away_s)(url, name, heartbeat_s, requeue)
    except Exception as error:
        raise UserError(f"search.storage: {redact(url)} {_why(error)}") from error
    return StudyStorage(backend, lock, folder, home)


def settle_optuna() -> None:
    """Keep Optuna's log lines and its warnings about experimental features off the screen."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    # Trials are asked for and told here, and their heartbeats given by the worker.
    warnings.filterwarnings("ignore", message="Heartbeat of storage")
    logging.getLogger("alembic").setLevel(logging.WARNING)


class JournalLock(BaseJournalFileLock):
    """Dies with its holder, and cuts off a line that a killed writer left unfinished."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(journal.with_suffix(".journal-lock"))

    def acquire(self) -> bool:
        """Wait for the lock; the journal then ends with a whole line."""
        self._lock.acquire(_LOCK_S)
        cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()


def cut_torn_line(journal: Path) -> None:
    """Drop what follows the last line break: nobody was told that it was written."""
    with journal.open("r+b") as stream:
        end = stream.seek(0, 2)
        kept = end
        while kept > 0:
            start = max(0, kept - 4096)
            stream.seek(start)
            place = stream.read(kept - start).rfind(b"\n")
            kept = start + place + 1 if place >= 0 else start
            if place >= 0:
                break
        if kept < end:
            stream.truncate(kept)


def _open_journal(path: Path) -> JournalStorage:
    try:
        return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))
    except OSError as error:
        raise UserError(f"{path}: the study cannot be opened: {error.strerror}") from None
    except Exception as error:  # a damaged line surfaces as whatever it trips
        raise UserError(
            f"{path}: not a study that this Optuna can read ({type(error).__name__}); "
            "it is damaged, or of another version: move it away or give the search another name"
        ) from None


def _file_lock(folder: Path, name: str) -> Lock:
    @contextmanager
    def lock(purpose: str) -> Iterator[None]:
        held = FileLock(folder / f"{name}.{purpose}-lock")
        held.acquire(_LOCK_S)
        try:
            yield
        finally:
            held.release()

    return lock


def _check_postgres(url: str, away_s: float) -> None:
    if not url.startswith(POSTGRES):
        raise UserError(
            f"search.storage: '{redact(url)}' is not of the form {POSTGRES}user@host/db"
        )
    if importlib.util.find_spec("psycopg") is None:
        raise UserError("search.storage: PostgreSQL needs: pip install 'psycopg[binary]'")
    if (reason := unreachable(url)) is not None:
        raise UserError(f"search.storage: {redact(url)} cannot be reached: {reason}")


def _connect(url: str, name: str, heartbeat_s: int, requeue: Requeue) -> tuple[RDBStorage, Lock]:
    from sqlalchemy import create_engine

    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    engine = create_engine(url, **options)
    lock = _advisory_lock(engine, name)
    with lock("tables"):  # two machines that make the tables at once trip each other
        _refuse_foreign(engine)
        storage = PatientStorage(
            url,
            options,
            heartbeat_interval=heartbeat_s,
            grace_period=_GRACE_HEARTBEATS * heartbeat_s,
            heartbeat_stale_trial_callback=requeue,
        )
    return storage, lock


def _refuse_foreign(engine: Engine) -> None:
    """MLflow and Optuna both number the version of their tables in ``alembic_version``."""
    from sqlalchemy import inspect

    tables = set(inspect(engine).get_table_names())
    if "alembic_version" in tables and "studies" not in tables:
        raise UserError(
            "holds something else, MLflow's runs perhaps; a study needs its own: createdb"
        )


def _advisory_lock(engine: Engine, name: str) -> Lock:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    def take(key: int) -> Connection:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        return connection

    @contextmanager
    def lock(purpose: str) -> Iterator[None]:
        key = zlib.crc32(f"{name}/{purpose}".encode())
        with through_restarts(take)(key) as connection:
            try:
                yield
            finally:
                # A server that was restarted has let go of it by itself.
                with suppress(DBAPIError):
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})

    return lock


def _why(error: Exception) -> str:
    if isinstance(error, StudyAway) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it was not there to go away
    words = str(error)
    if isinstance(error, UserError):
        return words
    if "no longer compatible" in words or "upgrade" in words:
        return (
            "was made by another version of Optuna: an older one is brought up by "
            "optuna storage upgrade --storage URL; for a newer one, install that Optuna here"
        )
    lines = [line for line in words.splitlines() if line.strip()] or [type(error).__name__]
    return f"cannot be used: {known_reason(error) or redact(lines[0][:300])}"

"""A PostgreSQL storage that outlives a restart of its server, and lets nobody wait in vain."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import DBAPIError

from seglab.tracking.errors import StoreUnavailable

AWAY_S = 300.0
"""How long a server that was there is waited for."""
AGAIN_S = 0.5
_BESIDE = (
    "record_heartbeat",
    "_get_stale_trial_ids",
    "_create_new_trial",
    "_get_trials",
    "_get_best_trial_id",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
)
"""What Optuna's cache in front of a storage asks it for, beside the public questions."""


class StudyAway(StoreUnavailable):
    """The study's database was there and does not answer any more."""


_wishes: list[Callable[[], bool]] = []
"""What says that this process is to wait no longer."""


@contextmanager
def waiting_unless(is_stopped: Callable[[], bool]) -> Iterator[None]:
    """Within the block nobody waits for a database any longer once ``is_stopped``."""
    _wishes.append(is_stopped)
    try:
        yield
    finally:
        _wishes.remove(is_stopped)


def is_cut_off(error: BaseException) -> bool:
    """Whether the connection was cut or could not be made: the database undid what was asked."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if not isinstance(cause, DBAPIError):
        return False
    if cause.connection_invalidated:
        return True
    # psycopg has no code for a connection that could not be made.
    state = getattr(cause.orig, "sqlstate", "")
    return state is None or state.startswith(("08", "57P"))


def through_restarts(action: Callable[..., Any], away_s: float | None = None) -> Callable[..., Any]:
    """Return ``action`` done again, from its beginning, while the database is away.

    Args:
        action: what to do.
        away_s: seconds to wait for the database; None takes ``AWAY_S``.

    Raises:
        StudyAway: it is away for longer than ``away_s`` seconds.
        KeyboardInterrupt: the process is to stop, as :func:`waiting_unless` has it. Another
            thread than the main one, which nobody interrupts, gives up as if the time was over.
    """

    @functools.wraps(action)
    def patient(*arguments: Any, **named: Any) -> Any:
        deadline = time.monotonic() + (AWAY_S if away_s is None else away_s)
        while True:
            try:
                return action(*arguments, **named)
            except (DBAPIError, StorageInternalError) as error:
                if not is_cut_off(error):
                    raise
                is_stopped = any(wish() for wish in _wishes)
                if is_stopped and threading.current_thread() is threading.main_thread():
                    raise KeyboardInterrupt from None
                if is_stopped or time.monotonic() > deadline:
                    raise StudyAway(
                        "search.storage: the database of the study went away and does not answer; "
                        "the same command goes on once it does"
                    ) from error
            time.sleep(AGAIN_S)

    return patient


class PatientStorage(RDBStorage):
    """An ``RDBStorage`` each of whose calls waits for a database that is restarted."""


def _make_patient() -> None:
    for name in (*BaseStorage.__abstractmethods__, *_BESIDE):
        setattr(PatientStorage, name, through_restarts(getattr(RDBStorage, name)))


_make_patient()

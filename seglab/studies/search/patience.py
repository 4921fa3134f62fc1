"""A PostgreSQL storage that outlives a restart of its server."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import DBAPIError

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


def through_restarts(action: Callable[..., Any], away_s: float = AWAY_S) -> Callable[..., Any]:
    """Return ``action`` done again, from its beginning, while the database is away.

    Raises:
        DBAPIError, StorageInternalError: it is away for longer than ``away_s`` seconds.
    """

    @functools.wraps(action)
    def patient(*arguments: Any, **named: Any) -> Any:
        deadline = time.monotonic() + away_s
        while True:
            try:
                return action(*arguments, **named)
            except (DBAPIError, StorageInternalError) as error:
                if not is_cut_off(error) or time.monotonic() > deadline:
                    raise
            time.sleep(AGAIN_S)

    return patient


class PatientStorage(RDBStorage):
    """An ``RDBStorage`` each of whose calls waits for a database that is restarted."""


def _make_patient() -> None:
    for name in (*BaseStorage.__abstractmethods__, *_BESIDE):
        setattr(PatientStorage, name, through_restarts(getattr(RDBStorage, name)))


_make_patient()

"""What went wrong with a store: away for a while, or something the user must mend."""

from __future__ import annotations

import errno
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from seglab.core.errors import UserError

Result = TypeVar("Result")


class StoreAway(UserError):
    """A store that was there does not answer any more: nothing can be asked of it."""


_AWAY = (
    "database is locked",
    "failed with exception",  # how MLflow's REST client words a refused connection
    "failed with timeout exception",
    "too many 5",
    "error code 502",
    "error code 503",
    "error code 504",
    "connection refused",
    "could not connect",
    "connection already closed",
    "terminating connection",
)
_NO_SPACE = "no space is left"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MENDABLE = {
    "database or disk is full": _NO_SPACE,
    "no space left on device": _NO_SPACE,
    "disk quota exceeded": _NO_SPACE,
    "attempt to write a readonly database": "it is read-only",
    "read-only file system": "it is read-only",
    "permission denied": "permission is denied",
    "disk i/o error": "the disk does not answer",
    "unable to open database file": "the database cannot be opened or created",
    "file is not a database": "mlflow.db is not an SQLite database",
    "database disk image is malformed": "mlflow.db is damaged",
    "out-of-date database schema": "it was made by another MLflow; run: mlflow db upgrade",
    "can't locate revision": "it was made by a newer MLflow than the installed one",
    "not a directory": "a part of its path is a file",
    "file exists": "a file is in its place",
}
_PROBE_S = 5.0
LOCKED_S, AWAY_S = 60.0, 300.0
"""How long a locked database and a server that was there are waited for."""
AGAIN_S = 2.0
_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def redact(text: str) -> str:
    """Hide the user and password of every URI in ``text``, and secrets among its parameters."""
    # Up to the last "@" before the path: a password may hold one.
    hidden = re.sub(r"(?<=://)[^/\s'\"]+@", "***@", text)
    return re.sub(r"(?i)(?<=[?&])((?:password|passwd|pwd|token|key)=)[^&\s'\"]+", r"\1***", hidden)


def print_traceback() -> None:
    """Print the traceback of the error at hand, without passwords."""
    print(redact(traceback.format_exc()), end="", file=sys.stderr)


def is_away(error: BaseException) -> bool:
    """Say whether the store may answer again later, so that waiting or buffering helps."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return any(sign in str(error).lower() for sign in _AWAY)


def mendable(error: BaseException) -> str | None:
    """Return in a few words what the user can mend, or None for a fault that is not theirs."""
    text = str(error).lower()
    reasons = (reason for sign, reason in _MENDABLE.items() if sign in text)
    return next(reasons, None)


def is_out_of_space(error: BaseException) -> bool:
    """Say whether ``error``, or one that led to it, is of a disk or a quota that is full."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in _FULL or mendable(seen) == _NO_SPACE:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def unreachable(uri: str, away_s: float = 0.0) -> str | None:
    """Return why nothing listens at a server's address; None if something does, or it is a file.

    Takes seconds, where MLflow retries for minutes.

    Args:
        uri: of the server.
        away_s: seconds to wait for one that was there.
    """
    deadline = time.monotonic() + away_s
    while (reason := _probe(uri)) is not None and time.monotonic() < deadline:
        time.sleep(AGAIN_S)
    return reason


def _probe(uri: str) -> str | None:
    parts = urlsplit(uri)
    port = _DEFAULT_PORTS.get(parts.scheme.split("+")[0])
    if parts.hostname is None or port is None:
        return None
    try:
        socket.create_connection((parts.hostname, parts.port or port), timeout=_PROBE_S).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what the user can mend about ``where``, a store or a folder, into one line.

    Raises:
        UserError: it is away, full, read-only, damaged or of another version.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = mendable(error)
        if reason is not None:
            raise UserError(f"{redact(where)} cannot be used: {reason}") from error
        if is_away(error):
            raise StoreAway(f"{redact(where)} cannot be used: it does not answer") from error
        raise


def patiently(
    action: Callable[[], Result], wait_s: float = LOCKED_S, away_s: float = 0.0
) -> Result:
    """Call ``action``, and again while the store cannot take the call.

    MLflow itself waits 20 s for a locked SQLite database, then gives up for good.

    Args:
        action: what to do; done again from its beginning.
        wait_s: seconds to wait for a locked database.
        away_s: seconds to wait for a server that went away.
    """
    started, told = time.monotonic(), False
    while True:
        try:
            return action()
        except Exception as error:
            locked = "database is locked" in str(error)
            limit_s = wait_s if locked else away_s
            if not is_away(error) or time.monotonic() - started > limit_s:
                raise
        if not (locked or told):
            print(f"the tracking server does not answer; waiting {away_s:.0f} s", file=sys.stderr)
            told = True
        time.sleep(0.0 if locked else AGAIN_S)

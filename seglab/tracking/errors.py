"""What went wrong with a store, by type and code over the chain of causes that MLflow wraps."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from urllib.parse import urlsplit

from seglab.core.errors import UserError, first_line

Result = TypeVar("Result")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_THE_DISK = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
                errno.EIO)  # fmt: skip
_SQLITE = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT,
)  # fmt: skip
"""Codes of what the user can correct."""
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_LOCKED_S = 60.0
"""Retries on a locked SQLite database, beyond MLflow's own 20 s."""
_PROBE_S = 5.0
_PAGES = 64 * 1024  # bytes: what SQLite enlarges its files by at once
_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


class StoreUnavailable(UserError):
    """The store does not answer; the run is interrupted, and the same command continues it."""


def redact(text: str) -> str:
    """Hide user, password and secret parameters of every URI in ``text``."""
    # Up to the last "@" before the path: a password may hold one.
    hidden = re.sub(r"(?<=://)[^/\s'\"]+@", "***@", text)
    return re.sub(r"(?i)(?<=[?&])((?:password|passwd|pwd|token|key)=)[^&\s'\"]+", r"\1***", hidden)


def print_traceback() -> None:
    """Print the traceback of the error at hand, without passwords."""
    print(redact(traceback.format_exc()), end="", file=sys.stderr)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and its causes; of SQLAlchemy's errors also the driver's."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        if isinstance(driver := getattr(seen, "orig", None), BaseException):
            yield driver
        seen = seen.__cause__ or seen.__context__


def _sqlite_code(error: BaseException) -> int:
    """Primary result code of SQLite; 0 for other errors."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _reason(cause: BaseException) -> str | None:
    """What the user can correct about one error, in a few words."""
    if type(cause).__module__.startswith("alembic."):
        return f"it was made by another version of MLflow ({first_line(cause)})"
    if isinstance(cause, OSError):
        return os.strerror(cause.errno) if cause.errno in _OF_THE_DISK else None
    return first_line(cause) if _sqlite_code(cause) in _SQLITE else None


def is_locked_database(error: BaseException) -> bool:
    """Whether another process held the SQLite database for too long."""
    return any(_sqlite_code(cause) in _LOCKED for cause in _chain(error))


def is_out_of_space(error: BaseException) -> bool:
    """Whether a disk or a quota is full."""
    return any(
        getattr(cause, "errno", None) in _FULL or _sqlite_code(cause) == sqlite3.SQLITE_FULL
        for cause in _chain(error)
    )


def _is_unavailable(error: BaseException) -> bool:
    """Whether the store may answer later: a lost connection, a timeout, a locked database."""
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    kinds = (ConnectionError, TimeoutError, RequestException, OperationalError)
    return is_locked_database(error) or any(
        isinstance(cause, kinds) or getattr(cause, "error_code", "") == "TEMPORARILY_UNAVAILABLE"
        for cause in _chain(error)
    )


def unreachable(uri: str) -> str | None:
    """Say why nothing listens at a server's address, where MLflow would retry for minutes.

    None if something does, or if ``uri`` names no server.
    """
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
def as_user_error(where: str) -> Iterator[None]:
    """Turn what the user can correct about a store or a folder into one line.

    Raises:
        StoreUnavailable: it does not answer.
        UserError: it is full, read-only, damaged or of another version.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reasons = [reason for cause in _chain(error) if (reason := _reason(cause))]
        if reasons:
            full = ""  # SQLite calls a file that it cannot enlarge by a page an I/O error
            with suppress(OSError):
                if shutil.disk_usage(where.removeprefix("sqlite:///")).free < _PAGES:
                    full = " (the disk is full)"
            raise UserError(f"{redact(where)} cannot be used: {reasons[0]}{full}") from error
        if _is_unavailable(error):
            raise StoreUnavailable(f"{redact(where)} does not answer") from error
        raise


def retry_locked(action: Callable[[], Result]) -> Result:
    """Call ``action``, and again for a minute while its SQLite database is locked."""
    deadline = time.monotonic() + _LOCKED_S
    while True:
        try:
            return action()
        except Exception as error:
            if not is_locked_database(error) or time.monotonic() > deadline:
                raise

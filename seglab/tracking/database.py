"""The SQLite database under ``mlruns/``: made once, by one process, and movable.

MLflow stores absolute artifact locations. The folder they were written for is
kept in the database, so that a moved or copied folder is noticed when it is
opened and its locations are rewritten in one transaction.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

SQLITE = "sqlite:///"
DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_BUSY_S = 60
_LOCK_S = 120


def sqlite_uri(database: Path) -> str:
    """Name ``database`` as MLflow does."""
    return f"{SQLITE}{database}"


def prepare_database(database: Path) -> None:
    """Make ``database`` ready for this folder; safe for many processes at once.

    Creates it when absent, takes over one that MLflow made, and follows the
    folder when it was moved or copied. Nothing half-made is ever visible under
    the database's name.

    Raises:
        OSError, sqlite3.Error: the folder or database cannot be written.
    """
    if _home(database) == str(database.parent):
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.parent / ".lock", timeout=_LOCK_S):
        home = _home(database)
        if not database.exists():
            _create(database)
        elif home is None:
            _set_home(database)
        elif home != str(database.parent):
            _relocate(database, home)


def _connect(database: Path) -> contextlib.closing[sqlite3.Connection]:
    # mode=rw never creates the file, unlike a plain path.
    uri = f"file:{quote(str(database))}?mode=rw"
    return contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S))


def _home(database: Path) -> str | None:
    """Return the folder the stored locations were written for, None if never recorded."""
    if not database.exists():
        return None
    with _connect(database) as connection:
        try:
            row = connection.execute("SELECT folder FROM seglab_home").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # another than "no such table"
                raise
            return None
    return None if row is None else str(row[0])


def _create(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for leftover in database.parent.glob(f".{DATABASE}.new-*"):
        leftover.unlink()
    draft = database.parent / f".{DATABASE}.new-{os.getpid()}"
    try:
        open_draft: Any = SqlAlchemyStore  # untyped in MLflow
        open_draft(sqlite_uri(draft), str(database.parent / ARTIFACTS)).engine.dispose()
        with _connect(draft) as connection:
            # Readers (the UI) and writers no longer wait for each other.
            connection.execute("PRAGMA journal_mode=WAL")
        _set_home(draft, database.parent)
        draft.replace(database)
    finally:
        draft.unlink(missing_ok=True)


def _set_home(database: Path, folder: Path | None = None) -> None:
    with _connect(database) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS seglab_home (folder TEXT NOT NULL)")
        connection.execute("DELETE FROM seglab_home")
        connection.execute("INSERT INTO seglab_home VALUES (?)", (str(folder or database.parent),))


def _relocate(database: Path, old: str) -> None:
    new = str(database.parent)
    with _connect(database) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, column in _LOCATIONS:
            for before, after in ((old, new), (f"file://{quote(old)}", f"file://{quote(new)}")):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?",
                    (after, len(before) + 1, len(before) + 1, before + "/"),
                )
        connection.execute("UPDATE seglab_home SET folder = ?", (new,))

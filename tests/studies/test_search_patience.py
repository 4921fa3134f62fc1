"""A search outlives a restart of its database."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from seglab.core.errors import UserError
from seglab.studies.search.ledger import requeue
from seglab.studies.search.patience import (
    PatientStorage,
    StudyAway,
    is_cut_off,
    through_restarts,
    waiting_unless,
)
from seglab.studies.search.storage import open_storage
from tests.faults.servers import PostgresServer, free_port


@pytest.mark.slow
@pytest.mark.postgres
def test_every_call_goes_through_a_restart_and_is_done_once(
    database: PostgresServer, tmp_path: Path
) -> None:
    storage = open_storage(database.url, "s", tmp_path, 20, requeue)
    plain = RDBStorage(database.url, heartbeat_interval=20)
    study = optuna.create_study(storage=storage.backend, study_name="s")
    study.ask()
    plain.get_all_studies()
    database.restart()
    with pytest.raises((DBAPIError, StorageInternalError)) as cut:
        plain.get_all_studies()
    assert is_cut_off(cut.value)
    study.ask()
    with storage.lock("claim"):
        database.restart()
        study.ask()
    with storage.lock("claim"):
        assert [trial.number for trial in study.trials] == [0, 1, 2]
    storage.backend.record_heartbeat(study.trials[-1]._trial_id)


@pytest.mark.slow
@pytest.mark.postgres
def test_who_starts_while_the_database_is_away_waits_for_it(
    database: PostgresServer, tmp_path: Path
) -> None:
    database.stop()
    with pytest.raises(UserError, match="cannot be reached"):
        open_storage(database.url, "s", tmp_path, 20, requeue)
    back = threading.Timer(1.0, database.start)
    back.start()
    try:
        assert open_storage(database.url, "s", tmp_path, 20, requeue, away_s=60).beats
    finally:
        back.join()


def test_nothing_that_reaches_the_database_is_impatient() -> None:
    """Optuna puts a cache in front of a storage, which also asks it in private."""
    source = inspect.getsource(_CachedStorage)
    asked = set(re.findall(r"self\._backend\.(\w+)", source)) | BaseStorage.__abstractmethods__
    settings = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}
    for name in asked - settings:
        assert hasattr(getattr(PatientStorage, name), "__wrapped__"), name


@pytest.fixture
def nobody() -> Callable[[], object]:
    """Asks a database that is not there."""
    pytest.importorskip("psycopg")
    engine = create_engine(f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db")
    return engine.connect


def test_one_that_stays_away_is_told_in_words_for_people(nobody: Callable[[], object]) -> None:
    with pytest.raises(
        StudyAway, match=r"search\.storage: the database .* does not answer"
    ) as told:
        through_restarts(nobody, away_s=0.1)()
    assert isinstance(told.value, UserError)
    assert "secret" not in str(told.value)


def test_who_is_to_stop_waits_for_no_database(nobody: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            through_restarts(nobody)()
        except BaseException as error:
            failures.append(error)

    with waiting_unless(lambda: True):
        ask()
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert [type(failure) for failure in failures] == [KeyboardInterrupt, StudyAway]


def test_what_the_database_refuses_is_not_asked_again(tmp_path: Path) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    calls = 0

    @through_restarts
    def ask() -> None:
        nonlocal calls
        calls += 1
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("SELECT nothing FROM nowhere")

    with pytest.raises(DBAPIError):
        ask()
    assert calls == 1

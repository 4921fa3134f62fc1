"""A study that several machines share: one database, one MLflow server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.studies.search.ledger import requeue
from seglab.studies.search.storage import open_storage
from seglab.tracking import open_store
from tests.faults.servers import MlflowServer, PostgresServer
from tests.studies.search_runs import (
    ROOT,
    assert_runs_equal_trials,
    start,
    trials,
    wait_until,
    worker_pids,
)

IMPATIENT = "from seglab.studies.search import patience; patience.AWAY_S = 3.0"
"""Of a process's start: a database is waited for a shorter time."""


@pytest.fixture
def postgres(database: PostgresServer) -> str:
    return database.url


@pytest.mark.slow
@pytest.mark.postgres
def test_a_database_of_something_else_or_of_another_optuna_is_refused(
    postgres: str, tmp_path: Path
) -> None:
    import psycopg

    def refusal() -> str:
        with pytest.raises(UserError) as refused:
            open_storage(postgres, "tiny", tmp_path, 20, requeue)
        return str(refused.value)

    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num text)")  # as MLflow does
        assert "holds something else" in refusal()
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() == (1,)
        connection.execute("DROP TABLE alembic_version")
        assert open_storage(postgres, "tiny", tmp_path, 20, requeue).beats
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
        assert "another version of Optuna" in refusal()


@pytest.mark.slow
@pytest.mark.postgres
def test_a_machine_that_dies_for_good_is_stood_in_for(
    write: Callable[..., Path], tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two working folders play two hosts: one database of trials, one store of runs."""
    server = MlflowServer(tmp_path / "server")
    hosts = [tmp_path / "a", tmp_path / "b"]
    for host in hosts:
        host.mkdir()
        write(host, epochs=5, trials=4, storage=postgres, heartbeat_s=2)
    try:
        server.start()
        dying, living = (
            start(host / "tiny.yaml", MLFLOW_TRACKING_URI=server.uri) for host in hosts
        )
        wait_until(lambda: is_at_work(hosts[0], postgres))
        victims = [*worker_pids(dying), dying.pid]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        dying.communicate()
        out, err = living.communicate(timeout=300)
        told = json.loads(out)
        assert told["trials"]["complete"] + told["trials"]["pruned"] == 4, err
        assert told["trials"]["failed"] == 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        assert_runs_equal_trials(postgres)
        (failed,) = (t for t in trials(postgres) if t.state.name == "FAIL")
        (repeat,) = (t for t in trials(postgres) if t.user_attrs.get("retry_of") == failed.number)
        assert repeat.params == failed.params
        assert not open_store().find_runs("tiny", statuses=["RUNNING"])
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize(("end", "status"), [("patience", 2), ("Ctrl-C", 130)])
def test_a_database_that_stays_away_ends_the_command_in_good_order(
    write: Callable[..., Path], tmp_path: Path, database: PostgresServer, end: str, status: int
) -> None:
    url = database.url.replace("postgres@", "postgres:secret@")
    path = write(epochs=15, trials=1, storage=url)
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT if end == "patience" else "")
    process = start(path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    wait_until(lambda: has_progressed(database.url))
    database.stop()
    try:
        if end == "Ctrl-C":
            time.sleep(2)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)  # the other patience is five minutes
    finally:
        database.start()
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert "secret" not in err
    if end == "patience":
        assert "search.storage: the database of the study went away" in err
    out, err = start(path).communicate(timeout=300)
    assert json.loads(out)["trials"] == {"complete": 1, "pruned": 0, "failed": 0}, err
    assert_runs_equal_trials(database.url)


def has_progressed(url: str) -> bool:
    """Whether a trial has ended an epoch."""
    try:
        return any(trial.user_attrs.get("progress") for trial in trials(url))
    except KeyError:
        return False


def is_at_work(host: Path, url: str) -> bool:
    """Whether a trial of this host has ended an epoch and is not at its last."""
    try:
        running = [trial for trial in trials(url) if trial.state.name == "RUNNING"]
    except KeyError:
        return False
    return any(
        str(host) in (trial.user_attrs.get("owner") or {}).get("home", "")
        and 1 <= trial.user_attrs.get("progress", {}).get("epoch", 0) <= 3
        for trial in running
    )

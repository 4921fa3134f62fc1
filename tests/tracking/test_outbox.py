"""Nothing is lost and nothing doubled while a store is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.tracking import RunLog, Store, open_store, resume_run, start_run, sync
from seglab.tracking.failures import StoreAway, explained, patiently
from seglab.tracking.messages import artifact_message, batch_message, send
from seglab.tracking.outbox import JOURNAL, Outbox, read_journal
from tests.faults.servers import Server


def _log_epoch(run: RunLog, epoch: int) -> None:
    run.metrics({"val/dice": epoch / 10, "lr": 0.1}, epoch)


@pytest.mark.slow
def test_a_server_that_comes_back_has_everything_once(
    server: Server, remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seglab.tracking.run._LAST_WAIT_S", 0.0)
    monkeypatch.setattr("seglab.tracking.outbox._FIRST_RETRY_S", 0.0)
    store = remote

    back, gone = start_run(store, "outage", "back"), start_run(store, "outage", "gone")
    for run in (back, gone):
        _log_epoch(run, 0)
    server.stop()
    for run in (back, gone):
        _log_epoch(run, 1)
        run.text("first", "note.txt")
        run.text("second", "note.txt")
    gone.finish()  # the server is not back in time: everything stays on this machine
    assert len(read_journal(gone.state)) == 4
    server.start()
    _log_epoch(back, 2)
    back.finish()
    assert store.get_run(gone.run_id).status == "RUNNING"
    assert sync(store).sent == (gone.run_id,)
    assert sync(store).sent == ()

    for run, epochs in ((back, 3), (gone, 2)):
        assert store.get_run(run.run_id).status == "FINISHED"
        expected = [(epoch, epoch / 10) for epoch in range(epochs)]
        assert store.metric_history(run.run_id, "val/dice") == expected
        note = store.client.download_artifacts(run.run_id, "note.txt", str(tmp_path))
        assert Path(note).read_text() == "second"
        assert not run.state.exists()


@pytest.mark.slow
def test_a_question_waits_for_a_server_that_comes_back(server: Server, remote: Store) -> None:
    run = start_run(remote, "outage", "asks")
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    try:
        assert remote.get_run(run.run_id).status == "RUNNING"
    finally:
        back.join()
    run.finish()


@pytest.mark.slow
def test_a_process_that_starts_in_an_outage_waits_for_its_end(
    server: Server, remote: Store
) -> None:
    server.stop()
    with pytest.raises(UserError, match="cannot be reached"):
        open_store(remote.folder)
    back = threading.Timer(1.0, server.start)
    back.start()
    try:
        assert open_store(remote.folder, away_s=60).uri == server.uri
    finally:
        back.join()


def test_a_store_that_stays_away_is_no_fault_of_a_run(store: Store) -> None:
    def away() -> None:
        raise ConnectionError("connection refused")

    with pytest.raises(StoreAway, match="does not answer"), explained(store.uri):
        patiently(away, away_s=0.05)


def test_sending_twice_stores_once(store: Store) -> None:
    run = start_run(store, "outage", "run")
    message = batch_message(
        metrics={"a": 1.0, "b": 2.0}, step=3, params={"p": "x"}, tags={"t": "y"}
    )
    for _ in range(3):
        send(store.client, run.run_id, message, run.state)
    run.finish()
    assert store.metric_history(run.run_id, "a") == [(3, 1.0)]
    assert store.metric_history(run.run_id, "b") == [(3, 2.0)]


class _Away:
    """A client whose store is away: every call fails as MLflow's does then."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def refuse(*_: object, **__: object) -> None:
            raise ConnectionError(f"{name}: connection refused")

        return refuse


def test_a_killed_process_keeps_what_it_could_not_send(store: Store, tmp_path: Path) -> None:
    run = start_run(store, "outage", "run")
    _log_epoch(run, 0)
    away = Outbox(_Away(), store.uri, run.run_id, run.state)  # type: ignore[arg-type]
    away.put(batch_message(metrics={"val/dice": 0.1}, step=1))
    note = tmp_path / "note.txt"
    note.write_text("as it was")
    away.put(artifact_message(note, "notes"))
    note.write_text("overwritten since")
    with (run.state / JOURNAL).open("a") as journal:
        journal.write('{"do": "batch", "metr')  # the crash came in the middle of a line
    run._lock.release()

    again = resume_run(store, run.run_id)
    _log_epoch(again, 1)
    _log_epoch(again, 2)
    again.finish()
    assert store.metric_history(run.run_id, "val/dice") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    kept = store.client.download_artifacts(run.run_id, "notes/note.txt", str(tmp_path))
    assert Path(kept).read_text() == "as it was"
    assert not again.state.exists()


def test_an_outage_does_not_slow_every_message(store: Store) -> None:
    run = start_run(store, "outage", "run")
    calls = 0

    class Counting(_Away):
        def __getattr__(self, name: str) -> Callable[..., None]:
            nonlocal calls
            calls += 1
            return super().__getattr__(name)

    outbox = Outbox(Counting(), store.uri, run.run_id, run.state)  # type: ignore[arg-type]
    for step in range(50):
        outbox.put(batch_message(metrics={"x": 1.0}, step=step))
    assert calls == 1
    assert [message["metrics"][0][3] for message in outbox.pending] == list(range(50))
    assert Outbox(store.client, store.uri, run.run_id, run.state).flush()
    run.finish()
    assert store.metric_history(run.run_id, "x") == [(step, 1.0) for step in range(50)]


def test_sync_leaves_what_is_not_its_business(store: Store) -> None:
    living = start_run(store, "outage", "living")
    Outbox(_Away(), store.uri, living.run_id, living.state).put(  # type: ignore[arg-type]
        batch_message(tags={"a": "b"})
    )
    stranger = store.state("f" * 32)
    stranger.mkdir(parents=True)
    (stranger / JOURNAL).write_text("")
    report = sync(store)
    assert (report.sent, report.waiting, report.unknown) == ((), (living.run_id,), ("f" * 32,))
    living._lock.release()
    assert sync(store).sent == (living.run_id,)
    assert store.get_run(living.run_id).tags["a"] == "b"


def test_a_locked_database_is_waited_for_at_most_so_long(store: Store) -> None:
    tries = 0

    def locked() -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("(sqlite3.OperationalError) database is locked")

    with pytest.raises(RuntimeError, match="locked"):
        patiently(locked, wait_s=0.05)
    assert tries > 1

"""Opening stores, finding runs, and what is said when a store cannot be used."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from seglab.core.errors import UserError
from seglab.tracking.connect import default_uri, newest_runs_link, open_store, prepare_database
from seglab.tracking.errors import redact
from seglab.tracking.run import start_run
from seglab.tracking.store import Store, UnknownRun


def _one_of_eight(folder: Path, barrier: Any, number: int) -> None:
    barrier.wait()
    with start_run(open_store(folder), "together", f"run {number}") as run:
        for step in range(5):
            run.metrics({"val/dice": number + step / 10}, step)


@pytest.mark.slow
def test_eight_processes_at_once_on_an_empty_folder(tmp_path: Path) -> None:
    import mlflow  # noqa: F401  (forked children start at the same instant, without importing)

    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    workers = [
        context.Process(target=_one_of_eight, args=(tmp_path / "mlruns", barrier, number))
        for number in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8
    runs = open_store(tmp_path / "mlruns").find_runs("together")
    assert sorted(run.name for run in runs) == [f"run {number}" for number in range(8)]
    assert {run.status for run in runs} == {"FINISHED"}
    assert sorted(run.metrics["val/dice"] for run in runs) == pytest.approx(
        [number + 0.4 for number in range(8)]
    )


def test_an_interrupted_creation_leaves_no_half_database(tmp_path: Path) -> None:
    import mlflow  # noqa: F401

    context = multiprocessing.get_context("fork")
    for delay_s in (0.2, 0.5, 0.9):
        maker = context.Process(target=prepare_database, args=(tmp_path / "mlflow.db",))
        maker.start()
        time.sleep(delay_s)
        assert maker.pid is not None
        os.kill(maker.pid, signal.SIGKILL)
        maker.join()
    store = open_store(tmp_path)
    with start_run(store, "after the crash", "run"):
        pass
    assert not list(tmp_path.glob(".mlflow.db.new*"))


def test_the_environment_wins_over_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_uri(Path("/data/mlruns")) == "sqlite:////data/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert default_uri(Path("/data/mlruns")) == "http://tracking:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert default_uri(Path("/data/mlruns")).startswith("sqlite:")


def test_an_sqlite_uri_brings_its_own_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert open_store(tmp_path / "elsewhere").folder == store.folder
    assert not (tmp_path / "elsewhere").exists()


def test_an_experiment_is_found_created_and_restored(store: Store) -> None:
    first = store.experiment("losses")
    assert store.experiment("losses") == first
    store.client.delete_experiment(first)
    assert store.experiment("losses") == first
    found = store.client.get_experiment(first)
    assert found.lifecycle_stage == "active"
    # What the UI opens as model training, with the columns of the shared view.
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(found.tags["mlflow.sharedViewState.seglab"])
    assert "metrics.`val/dice`" in view["selectedColumns"]
    assert view["columnOrder"][-1] == "attributes.`Description`"


def test_an_experiment_that_cannot_be_restored_is_an_error(store: Store) -> None:
    store.client.delete_experiment(store.experiment("losses"))
    stuck = "CREATE TRIGGER a BEFORE UPDATE ON experiments BEGIN SELECT RAISE(ABORT, 'stuck'); END"
    with closing(sqlite3.connect(store.folder / "mlflow.db")) as database:
        database.execute(stuck)
    with pytest.raises(MlflowException, match="stuck"):
        store.experiment("losses")


def test_odd_experiment_names_stay_inside_the_artifact_folder(store: Store) -> None:
    for name in ("../../etc", "/absolute", "a b", "..", "Größe"):
        location = Path(store.client.get_experiment(store.experiment(name)).artifact_location)
        assert location.parent == store.folder / "artifacts"


def test_find_runs_by_experiment_tags_status_and_parent(store: Store) -> None:
    odd = 'it\'s "odd" `%`'
    parent = start_run(store, "one", "parent", {"seglab.kind": "ablation"})
    for arm in ("bce", odd):
        tags = {"seglab.kind": "train", "seglab.arm": arm, "seglab.seed": 0}
        start_run(store, "one", arm, tags, parent_run_id=parent.run_id).finish()
    start_run(store, "two", "other", {"seglab.kind": "train"}).fail("broken")
    parent.finish()

    def names(**query: Any) -> list[str]:
        return sorted(run.name for run in store.find_runs(**query))

    assert names(experiment="one") == ["bce", odd, "parent"]
    assert names(tags={"seglab.kind": "train"}) == ["bce", odd, "other"]
    assert names(tags={"seglab.arm": odd}) == [odd]
    assert names(tags={"seglab.seed": "0"}, experiment="one") == ["bce", odd]
    assert names(parent_run_id=parent.run_id) == ["bce", odd]
    assert names(statuses=["FAILED"]) == ["other"]
    assert names(experiment="unheard of") == []
    assert store.find_runs(parent_run_id=parent.run_id)[0].parent_run_id == parent.run_id


def test_an_experiment_renamed_in_the_ui_is_found_by_both_names(store: Store) -> None:
    run_id = start_run(store, "one", "run").run_id
    experiment_id = store.experiment("one")
    store.client.rename_experiment(experiment_id, "two")
    assert store.experiment("one") == store.experiment("two") == experiment_id
    assert [run.run_id for run in store.find_runs("one")] == [run_id]
    assert [run.run_id for run in store.find_runs("two")] == [run_id]


def test_the_first_characters_of_an_id_do_unless_several_runs_have_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [start_run(store, "one", name).run_id for name in ("a", "b")]
    assert store.find_run(runs[0][:8]).run_id == runs[0]
    unlike = next(digit for digit in "0123" if digit not in (runs[0][7], runs[1][7]))
    for find, unknown in (
        (store.get_run, "nonsense"),
        (store.get_run, "0" * 32),
        (store.find_run, runs[0][:3]),
        (store.find_run, runs[0][:7] + unlike),
    ):
        with pytest.raises(UnknownRun, match=f"no run '{unknown}'"):
            find(unknown)
    twins = [replace(store.get_run(runs[0]), run_id="abcdef" + digit * 26) for digit in "01"]
    other = replace(twins[0], run_id="0123" * 8)
    monkeypatch.setattr(Store, "find_runs", lambda _: [*twins, other])
    assert store.find_run("0123") == other
    with pytest.raises(UserError, match="2 runs begin with 'abcdef'"):
        store.find_run("abcdef")
    assert store.find_run("abcdef1") == twins[1]


def test_a_lock_may_be_asked_for_while_its_last_holder_removes_it(store: Store) -> None:
    held: list[int] = []

    def acquire_and_release(number: int) -> None:
        lock = store.acquire("contended")
        held.append(number)
        assert held == [number]
        held.remove(number)
        store.release(lock)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(acquire_and_release, range(200)))
    assert not store.state("contended").exists()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://user:secret@127.0.0.1:9", "cannot be reached"),
        ("postgresql://user:secret@127.0.0.1:9/db", "cannot be reached"),
        ("http://no-such-host.invalid:5000", "cannot be reached"),
        ("file:///tmp/mlruns", "cannot be used"),
        ("nonsense://x", "cannot be used"),
    ],
)
def test_an_unusable_address_is_one_line(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=reason) as caught:
        open_store(tmp_path / "mlruns")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "mlruns").exists()


def test_something_else_than_a_store_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = http.server.SimpleHTTPRequestHandler  # answers 501 to POST
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{other.server_port}")
        with pytest.raises(UserError, match="cannot be used"):
            open_store(tmp_path / "mlruns")
        other.shutdown()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "mlflow.db").write_bytes(b"this is no database" * 100)
    for folder, said in (
        ("taken/inside", "taken.*Not a directory"),
        ("damaged", "file is not a database"),
        ("50%", "'%' in its path"),
    ):
        with pytest.raises(UserError, match=said):
            open_store(tmp_path / folder)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "postgresql+psycopg://anna:pw%40x@db/study and http://u:p@host",
            "postgresql+psycopg://***@db/study and http://***@host",
        ),
        ("http://u:p@ss@host/x, a@b", "http://***@host/x, a@b"),
        ("postgresql://db/s?user=u&password=pw&x=1", "postgresql://db/s?user=u&password=***&x=1"),
        ("'http://host' of a@b", "'http://host' of a@b"),
    ],
)
def test_passwords_never_reach_a_message(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_the_ui_opens_on_the_newest_experiment_and_not_on_a_confirmation(store: Store) -> None:
    assert newest_runs_link(store, "http://here") == "http://here"
    started = {}
    for name, tags in (("old", {}), ("search", {}), ("confirmed", {"seglab.confirms": "search"})):
        with start_run(store, name, name, tags) as run:
            started[name] = run.run_id
        start_run(store, name, "trial", parent_run_id=run.run_id).finish()
        time.sleep(0.01)  # MLflow orders by milliseconds
    newest = store.get_run(started["search"]).experiment_id
    assert f"/experiments/{newest}/runs?" in newest_runs_link(store, "http://here")
    state = json.loads(store.client.get_experiment(newest).tags["mlflow.sharedViewState.seglab"])
    assert state["runsExpanded"] == {started["search"]: True}
    assert state["orderByKey"] == "metrics.`val/dice`"
    continued = store.get_run(started["old"])
    start_run(store, "old", "another seed", parent_run_id=continued.run_id).finish()
    assert f"/{continued.experiment_id}/runs?" in newest_runs_link(store, "http://here")

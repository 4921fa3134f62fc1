"""Whole searches: workers that die, people who interrupt, trials that fail, sealed patients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

import seglab.studies.components  # noqa: F401  (registers)
from seglab.cli import sweep, train
from seglab.core.errors import UserError
from seglab.core.study import load_study
from seglab.data.phantom import write_phantom
from seglab.studies.data import open_data
from seglab.studies.search.ledger import requeue
from seglab.studies.search.parent import run_search
from seglab.studies.search.storage import open_storage
from seglab.studies.search.worker import Reins, Task, work
from seglab.tracking import open_store, start_run

ROOT = Path(__file__).resolve().parents[2]
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "KILLED"}
SEARCH: dict[str, Any] = {
    "trials": 2,
    "space": {"optim.lr": {"low": 1e-4, "high": 2e-2, "log": True}},
    "pruner": {"name": "median", "startup_trials": 2},
    "confirm": {"top": 0},
}


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom(folder / "set", patients=6, size=48, slices=10, workers=1)
    return folder


@pytest.fixture
def write(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def write_file(folder: Path = tmp_path, epochs: int = 1, **search: Any) -> Path:
        document = {
            "name": "tiny",
            "data": {
                "source": "brats-h5",
                "root": str(phantoms / "set"),
                "cache": str(phantoms / "cache"),
                "image_size": 48,
                "crop": "none",
                "workers": 1,
            },
            "split": {"fractions": [0.5, 0.25, 0.25]},
            "model": {"name": "unet", "base_channels": 4, "depth": 2},
            "augment": "none",
            "train": {"epochs": epochs, "threads": 1},
            "search": {**SEARCH, **search},
        }
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write_file


def trials(url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(url, "tiny", Path("mlruns/optuna").absolute(), 20, requeue)
    return optuna.load_study(study_name="tiny", storage=storage.backend).trials


def assert_runs_equal_trials(url: str | None = None) -> None:
    """One run a trial, of the same status, and with the same Dice to the bit."""
    runs = open_store().find_runs("tiny", {"seglab.kind": "trial"})
    by_number = {int(run.tags["seglab.trial"]): run for run in runs}
    assert len(by_number) == len(runs)
    found = trials(url)
    assert by_number.keys() == {trial.number for trial in found}
    for trial in found:
        run = by_number[trial.number]
        assert run.status == STATUS[trial.state.name]
        assert ("seglab.pruned_at_epoch" in run.tags) == (trial.state.name == "PRUNED")
        if trial.state.name == "COMPLETE":
            assert trial.values == [run.metrics["val/dice"]]


def test_a_worker_trains_what_is_asked(write: Callable[..., Path]) -> None:
    study, store = load_study(write()), open_store()
    begin(study, store)
    parent = start_run(store, "tiny", "parent")
    work(Task(study.document, parent.run_id, 1, datetime.now().isoformat()), Reins())
    parent.finish()
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 2
    assert_runs_equal_trials()
    assert trials()[0].params == {"optim.lr": study.run.optim.lr}
    assert_leaders_are_drawn()
    assert_noted()


def assert_leaders_are_drawn() -> None:
    """Whoever was the best when it ended has overlays; the others only their scores."""
    best, client = -1.0, open_store().client
    for trial in trials():
        run_id = trial.user_attrs["run_id"]
        names = {item.path for item in client.list_artifacts(run_id)}
        assert {"patients_val.csv", "curves.png", "checkpoints"} <= names
        assert ({"overlays", "gallery"} <= names) == (trial.values[0] > best)
        best = max(best, trial.values[0])


def assert_noted() -> None:
    """optuna-dashboard is told each trial's name and the page of its run."""
    storage = open_storage(None, "tiny", Path("mlruns/optuna").absolute(), 20, requeue)
    study = optuna.load_study(study_name="tiny", storage=storage.backend)
    notes = storage.backend.get_study_system_attrs(study._study_id)
    for trial in trials():
        note = notes[f"dashboard:{trial._trial_id}:note_str:0"]
        run = open_store().get_run(trial.user_attrs["run_id"])
        assert f"**trial {trial.number:03d} · seed 0**" in note
        assert f"/#/experiments/{run.experiment_id}/runs/{run.run_id})" in note


def begin(study: Any, store: Any) -> None:
    from seglab.studies.search.identity import open_study
    from seglab.studies.search.space import make_space
    from seglab.studies.search.worker import open_study_storage

    storage = open_study_storage(study, store)
    open_study(study.name, make_space(study), study.search, open_data(study.run), storage)


@pytest.mark.parametrize("flag", ["--trials", "--workers", "--timeout"])
def test_none_is_no_number_of_anything(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert sweep.main([str(write()), flag, "0"]) == 2
    assert capsys.readouterr().err == f"error: {flag} 0: must be above 0\n"


def test_what_is_no_search_is_sent_to_the_other_command(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    assert sweep.main([str(path), "search=null"]) == 2
    assert "run_experiment.py" in capsys.readouterr().err
    assert train.main([str(path)]) == 2
    assert "sweep.py" in capsys.readouterr().err


def start(path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweep.py"), str(path), "--json", *arguments],
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def worker_pids(parent: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{parent.pid}/task")
    found = (task / "children" for task in tasks.iterdir())
    return [
        int(pid)
        for children in found
        for pid in children.read_text().split()
        if b"search.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def wait_until(condition: Callable[[], object], wait_s: float = 120) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def epochs_done() -> int:
    try:
        return sum(trial.user_attrs.get("progress", {}).get("epoch", 0) for trial in trials())
    except (KeyError, OSError):
        return 0


@pytest.mark.slow
def test_kills_of_worker_and_parent_lose_and_double_nothing(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(epochs=6, trials=4)
    first = start(path, "--workers", "2")
    wait_until(lambda: epochs_done() >= 2)
    os.kill(worker_pids(first)[0], signal.SIGKILL)
    wait_until(lambda: epochs_done() >= 6)
    first.kill()
    first.communicate()
    out, err = start(path, "--workers", "2").communicate(timeout=300)
    told = json.loads(out)
    assert told["trials"]["complete"] + told["trials"]["pruned"] == 4, err
    assert told["trials"]["failed"] == 0
    assert {trial.state.name for trial in trials()} <= {"COMPLETE", "PRUNED"}
    assert_runs_equal_trials()
    assert not open_store().find_runs(statuses=["RUNNING"])
    assert train.main([told["best_config"], "--json"]) == 0
    (again,) = json.loads(capsys.readouterr().out)["runs"]
    assert again["val/dice"] == told["best"]["value"]


@pytest.mark.slow
def test_ctrl_c_puts_the_search_down_and_the_same_command_takes_it_up(
    write: Callable[..., Path],
) -> None:
    path = write(epochs=30, trials=2, pruner={"name": "none"})
    first = start(path)
    wait_until(lambda: epochs_done() >= 1)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130
    assert out == ""
    assert "the same command continues" in err
    assert_runs_equal_trials()
    (parent,) = open_store().find_runs("tiny", {"seglab.kind": "sweep"})
    assert parent.status == "KILLED"
    before = epochs_done()
    assert 0 < before < 60
    out, _ = start(path).communicate(timeout=300)
    assert json.loads(out)["trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert_runs_equal_trials()


@pytest.mark.slow
def test_a_failing_trial_is_recorded_and_the_search_goes_on(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    weights = {"choices": ["none", str(tmp_path / "absent")], "when": {"model.name": "smp-unet"}}
    path = write(
        trials=3,
        sampler="grid",
        space={"model.name": {"choices": ["unet", "smp-unet"]}, "model.encoder_weights": weights},
    )
    study = load_study(path, ["data.image_size=64"])
    outcome = run_search(study, open_store())
    assert outcome.trials == {"complete": 2, "pruned": 0, "failed": 1}
    (failed,) = (trial for trial in trials() if trial.state.name == "FAIL")
    assert "absent" in failed.user_attrs["error"]
    assert_runs_equal_trials()


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, run by the user ``postgres`` where the tests run as root."""
    pytest.importorskip("psycopg")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL server programs in /usr/lib/postgresql")
    folder = Path(tempfile_for(tmp_path_factory))
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs[-1] / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "postgres")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    run(
        "pg_ctl",
        "-D",
        str(folder / "data"),
        "-o",
        options,
        "-l",
        str(folder / "log"),
        "-w",
        "start",
    )
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "seglab")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/seglab"
    finally:
        run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(folder)


def tempfile_for(factory: pytest.TempPathFactory) -> str:
    import tempfile

    # pytest's own folders are closed to other users, and a socket's path must be short.
    return tempfile.mkdtemp(prefix="pg-")


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{tmp_path}/server.db"),
            *("--artifacts-destination", str(tmp_path / "artifacts"), "--port", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    hosts = [tmp_path / "a", tmp_path / "b"]
    for host in hosts:
        host.mkdir()
        write(host, epochs=5, trials=4, storage=postgres, heartbeat_s=2)
    try:
        wait_until(lambda: answers(port))
        dying, living = (start(host / "tiny.yaml", MLFLOW_TRACKING_URI=uri) for host in hosts)
        wait_until(lambda: is_at_work(hosts[0], postgres))
        victims = [*worker_pids(dying), dying.pid]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        dying.communicate()
        out, err = living.communicate(timeout=300)
        told = json.loads(out)
        assert told["trials"]["complete"] + told["trials"]["pruned"] == 4, err
        assert told["trials"]["failed"] == 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert_runs_equal_trials(postgres)
        (failed,) = (t for t in trials(postgres) if t.state.name == "FAIL")
        (repeat,) = (t for t in trials(postgres) if t.user_attrs.get("retry_of") == failed.number)
        assert repeat.params == failed.params
        assert not open_store().find_runs("tiny", statuses=["RUNNING"])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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

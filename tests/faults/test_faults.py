"""Machines, servers and databases that fail while a command trains."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox.commands import LONGEST_S, Store, epochs_logged, run, start, write_files
from tests.faults.servers import MlflowServer, PostgresServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
WORK_S = 300
"""Until a command has trained some epochs."""


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server: each test has an experiment of its own."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop(hard=True)


def kill(process: subprocess.Popen[str]) -> None:
    """End a command and its workers with SIGKILL."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def epochs(store: Store, experiment: str) -> int:
    """Epochs that the runs of an experiment have logged so far."""
    if store.client.get_experiment_by_name(experiment) is None:
        return 0
    return sum(len(store.history(r.info.run_id, "train/loss")) for r in store.runs(experiment))


def check_runs(store: Store, experiment: str, kind: str, count: int, lost: int = 0) -> None:
    """Every training once, at its end, and no step of a curve lost or doubled.

    At most ``lost`` runs may be interrupted for good: their checkpoint died with its machine.
    """
    runs = [r for r in store.runs(experiment) if r.data.tags["seglab.kind"] == kind]
    ended = [r for r in runs if "seglab.interrupted" not in r.data.tags]
    assert len(ended) == count
    assert len(runs) - count <= lost
    assert {r.info.status for r in runs} <= {"FINISHED", "KILLED"}
    assert len({r.data.tags["seglab.config_hash"] for r in ended}) == count
    for one in ended:
        steps = [step for step, _ in store.history(one.info.run_id, "train/loss")]
        assert steps == list(range(steps[0], steps[0] + len(steps))), one.info.run_name


@pytest.mark.parametrize(
    ("script", "name", "kind", "count"),
    [("run_experiment.py", "ablation", "train", 4), ("sweep.py", "sweep", "trial", 5)],
)
def test_two_machines_share_the_work_and_one_dies_for_good(
    phantoms: Path,
    tmp_path: Path,
    database: PostgresServer,
    server: MlflowServer,
    script: str,
    name: str,
    kind: str,
    count: int,
) -> None:
    storage = "search.storage" if name == "sweep" else "storage"
    words = [f"{storage}={database.url}", "search.heartbeat_s=2", "search.trials=5"]
    argv = [script, f"{name}.yaml", *(words if name == "sweep" else words[:1]), "--json"]
    machines = []
    for machine in ("one", "two"):
        folder = tmp_path / machine
        folder.mkdir()
        shutil.copytree(phantoms, folder / "phantoms")
        write_files(folder, folder / "phantoms")
        machines.append(start(folder, *argv, MLFLOW_TRACKING_URI=server.uri))
    lost, left = machines
    store = Store(tmp_path, server.uri)
    wait_until(lambda: epochs(store, name) >= 4, WORK_S)
    kill(lost)
    _, err = left.communicate(timeout=LONGEST_S)
    assert left.returncode == 0, err[-2000:]
    check_runs(store, name, kind, count, lost=1)


def test_a_server_away_for_a_minute_loses_and_doubles_nothing(
    phantoms: Path, tmp_path: Path, server: MlflowServer
) -> None:
    write_files(tmp_path, phantoms, train={"epochs": 30, "threads": 1, "batch_size": 2})
    argv = ("run_experiment.py", "single.yaml", "--json")
    process = start(tmp_path, *argv, MLFLOW_TRACKING_URI=server.uri)
    store = Store(tmp_path, server.uri)
    wait_until(lambda: epochs(store, "single") >= 2, WORK_S)
    server.stop(hard=True)
    time.sleep(60)
    server.start()
    process.communicate(timeout=LONGEST_S)
    run(tmp_path, *argv, MLFLOW_TRACKING_URI=server.uri).good()
    check_runs(store, "single", "train", 1)
    assert epochs(store, "single") == 30


def test_a_database_that_restarts_amid_an_ablation_changes_nothing(
    phantoms: Path, tmp_path: Path, database: PostgresServer
) -> None:
    write_files(tmp_path, phantoms)
    argv = ("run_experiment.py", "ablation.yaml", f"storage={database.url}", "--workers", "2")
    process = start(tmp_path, *argv)
    wait_until(lambda: epochs_logged(tmp_path) >= 2 or process.poll() is not None, WORK_S)
    database.restart()
    process.communicate(timeout=LONGEST_S)
    run(tmp_path, *argv).good()
    check_runs(Store(tmp_path), "ablation", "train", 4)

"""Whole searches on tiny phantoms, and what tests look for in them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

import seglab.studies.components  # noqa: F401  (registers)
from seglab.core.study import load_study
from seglab.studies.data import open_data
from seglab.studies.search.identity import open_study
from seglab.studies.search.ledger import Claim, requeue, take_ownership
from seglab.studies.search.space import make_space
from seglab.studies.search.storage import StudyStorage, open_storage
from seglab.studies.search.workbench import Workbench
from seglab.studies.search.worker import open_ledger, open_study_storage
from seglab.tracking import open_store, start_run

ROOT = Path(__file__).resolve().parents[2]
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "KILLED"}
SEARCH: dict[str, Any] = {
    "trials": 2,
    "space": {"optim.lr": {"low": 1e-4, "high": 2e-2, "log": True}},
    "pruner": {"name": "median", "startup_trials": 2},
    "confirm": {"top": 0},
}


def _open(url: str | None) -> StudyStorage:
    return open_storage(url, "tiny", Path("mlruns/optuna").absolute(), 20, requeue)


# A server lets in a hundred connections, and each opening of a database keeps two.
_open_once = functools.cache(_open)


def trials(url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    storage = _open(None) if url is None else _open_once(url)
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


def workbench_of(path: Path) -> Workbench:
    """Begin the search of a file, and sit down to it as its worker does."""
    study, store = load_study(path), open_store()
    assert study.search is not None
    data, space = open_data(study.run), make_space(study)
    storage = open_study_storage(study, store)
    open_study(study.name, space, study.search, data, storage)
    ledger = open_ledger(study, space, storage, datetime.now())
    parent = start_run(store, study.name, "parent")
    return Workbench(ledger, store, parent.run_id, lambda _: data, lambda: False)


def claim_next(workbench: Workbench) -> Claim:
    """Claim a trial as a worker that has just started."""
    owner = take_ownership(workbench.ledger.storage, workbench.ledger.study.study_name)
    claim = workbench.ledger.claim(owner.path.name, 1)
    assert claim is not None
    return claim


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


def wait_until(condition: Callable[[], object], wait_s: float = 600) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def epochs_done() -> int:
    try:
        return sum(trial.user_attrs.get("progress", {}).get("epoch", 0) for trial in trials())
    except (KeyError, OSError):
        return 0

"""Workers that end before their time: which are replaced, and what becomes of the search."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from seglab.core.errors import UserError
from seglab.core.study import load_study
from seglab.learning.batches import WORKERS_PER_GPU
from seglab.studies.search import crew as crew_module
from seglab.studies.search.crew import Crew
from seglab.studies.search.worker import Task
from tests.studies.search_runs import assert_runs_equal_trials, start, trials, wait_until

STARVED_ONCE = """
from pathlib import Path
from seglab.learning import training
step = training.train_step

def hungry(*arguments):
    try:
        Path("starved").touch(exist_ok=False)
    except FileExistsError:
        return step(*arguments)
    raise MemoryError("cannot allocate")

training.train_step = hungry
"""
"""Of a process's start: the first step of all training finds no memory."""


DEAD_AT_ONCE = """
import os, sys
if "seglab.studies.search.worker" in sys.orig_argv:
    os._exit(9)
"""

TELLS_WHAT_IT_WAS_GIVEN = """
import json, os, sys
if "seglab.studies.search.worker" in sys.orig_argv:
    with open(f"given-{os.getpid()}", "w") as stream:
        json.dump(dict(os.environ), stream)
    os._exit(0)
"""


@pytest.mark.slow
def test_who_found_no_memory_does_no_other_trial(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(STARVED_ONCE)
    out, err = start(write(), PYTHONPATH=str(tmp_path)).communicate(timeout=600)
    assert json.loads(out)["trials"] == {"complete": 2, "pruned": 0, "failed": 1}, err
    assert [trial.state.name for trial in trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert_runs_equal_trials()
    first, *others = [trial.user_attrs["owner"]["lock"] for trial in trials()]
    assert len({*others}) == 1
    assert first not in others
    assert "died" not in err


def test_workers_that_die_early_end_the_search_however_long_a_start_takes(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEAD_AT_ONCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    study, now = load_study(write()), 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(crew_module, "time", clock)
    crew = Crew(Task(study.document, "none", 1, datetime.now().isoformat()), 1, [])
    for _ in range(5):
        before = crew.pids
        wait_until(lambda: crew.mend() and crew.pids != before)  # noqa: B023
        now += 30
    with pytest.raises(UserError, match=r"6 workers died .*status 9"):
        wait_until(lambda: not crew.mend())


def test_a_worker_that_dies_after_all_were_told_to_stop_is_not_replaced(
    write: Callable[..., Path],
) -> None:
    study = load_study(write())
    crew = Crew(Task(study.document, "none", 1, datetime.now().isoformat()), 1, [])
    (pid,) = crew.pids
    crew.stop_after_epoch()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not crew.mend() or crew.pids != [pid])
    replaced = crew.pids
    crew.stop_now()
    assert replaced == []


@pytest.mark.parametrize(
    ("gpus", "shares"), [([], [None]), (["4"], ["3"]), (["4", "7"], ["2", "1", "2"])]
)
def test_workers_share_the_cores_and_the_gpus(
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[str],
    shares: list[str | None],
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TELLS_WHAT_IT_WAS_GIVEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for variable in ("CUDA_VISIBLE_DEVICES", WORKERS_PER_GPU):
        monkeypatch.delenv(variable, raising=False)
    task = Task(load_study(write()).document, "none", 2, datetime.now().isoformat())
    crew = Crew(task, 3, gpus)
    pids = crew.pids
    wait_until(lambda: not crew.mend())
    for slot, pid in enumerate(pids):
        given = json.loads((tmp_path / f"given-{pid}").read_text())
        assert given["OMP_NUM_THREADS"] == "2"
        assert given.get("CUDA_VISIBLE_DEVICES") == (gpus[slot % len(gpus)] if gpus else None)
        assert given.get(WORKERS_PER_GPU) == shares[slot % len(shares)]

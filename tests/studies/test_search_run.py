"""Whole searches: workers that die, people who interrupt, trials that fail, sealed patients."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import seglab.studies.components  # noqa: F401  (registers)
from seglab.cli import sweep, train
from seglab.core.study import load_study
from seglab.studies.search.ledger import requeue
from seglab.studies.search.parent import run_search
from seglab.studies.search.results import summarise, write_best
from seglab.studies.search.storage import open_storage
from seglab.studies.search.worker import Reins, Task, work
from seglab.tracking import open_store
from tests.studies.search_runs import (
    assert_runs_equal_trials,
    claim_next,
    epochs_done,
    start,
    trials,
    wait_until,
    workbench_of,
    worker_pids,
)


def test_a_worker_trains_what_is_asked(write: Callable[..., Path]) -> None:
    study = load_study(path := write())
    parent_run_id = workbench_of(path).parent_run_id
    work(Task(study.document, parent_run_id, 1, datetime.now().isoformat()), Reins())
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
        drawn = {"curves.png", "overlays", "gallery"}
        assert {"patients_val.csv", "checkpoints"} <= names
        assert names & drawn == (drawn if trial.values[0] > best else set())
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


def test_the_command_of_the_best_can_be_typed_as_it_is_printed(write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(path.read_text().replace("name: tiny", "name: two words"))
    workbench = workbench_of(path)
    workbench.ledger.tell(claim_next(workbench).trial, TrialState.COMPLETE, [0.5])
    study = load_study(path)
    outcome = summarise(study, workbench.ledger, workbench.parent_run_id)
    assert outcome.best is not None
    best = workbench.ledger.storage.folder / "two words.best.yaml"
    write_best(best, study, outcome.best, workbench.ledger)
    told = sweep._describe(replace(outcome, best_config=best, report=best))
    for text in (best.read_text(), told):
        (line,) = [line for line in text.splitlines() if "run_experiment.py" in line]
        words = shlex.split(line[line.index("python") :])
        assert words[:2] == ["python", "run_experiment.py"]
        assert [Path(word).resolve() for word in words[2:]] == [best.resolve()]


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
    out, err = start(path, "--workers", "2").communicate(timeout=600)
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
    out, err = first.communicate(timeout=600)
    assert first.returncode == 130
    assert out == ""
    assert "the same command continues" in err
    assert_runs_equal_trials()
    (parent,) = open_store().find_runs("tiny", {"seglab.kind": "sweep"})
    assert parent.status == "KILLED"
    before = epochs_done()
    assert 0 < before < 60
    out, _ = start(path).communicate(timeout=600)
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

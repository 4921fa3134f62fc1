"""Whole searches: workers that die, Ctrl-C, trials that fail."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from seglab.cli.main import main
from seglab.cli.train import describe_search
from seglab.core.study import load_study
from seglab.studies.experiment import Interrupted
from seglab.studies.queue import ERROR, ITEM, SURPLUS, open_storage
from seglab.studies.search import confirm
from seglab.studies.search.results import SearchOutcome
from seglab.studies.search.run import run_search
from seglab.studies.search.trials import RUN
from seglab.tracking.artifacts import list_artifacts
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import RunInfo

ROOT = Path(__file__).resolve().parents[2]
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}


def ended_study(*found: tuple[float, float]) -> optuna.Study:
    """A study with a complete trial of each Dice and learning rate."""
    study = optuna.create_study()
    between = {"optim.lr": optuna.distributions.FloatDistribution(1e-6, 1)}
    for dice, rate in found:
        params = {"optim.lr": rate}
        study.add_trial(optuna.trial.create_trial(value=dice, params=params, distributions=between))
    return study


def start(path: Path, *arguments: str, script: str = "sweep.py") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), str(path), "--json", *arguments],
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trials() -> list[optuna.trial.FrozenTrial]:
    """Trials that ended, one of each item."""
    storage = open_storage(None, Path("mlruns").absolute(), 20)
    found = optuna.load_study(study_name="tiny", storage=storage).trials
    return [t for t in found if ITEM in t.user_attrs and SURPLUS not in t.user_attrs]


def runs() -> list[RunInfo]:
    return open_store().find_runs("tiny", {"seglab.kind": "trial"})


def epochs_done() -> int:
    try:
        return sum(len(t.intermediate_values) for t in trials())
    except (KeyError, OSError):
        return 0


def wait_until(condition: Callable[[], object], wait_s: float = 600) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def child_pids(parent: subprocess.Popen[str]) -> list[int]:
    """Processes that the parent spawned to do trials."""
    found = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return [int(p) for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def assert_runs_equal_trials(count: int) -> None:
    """One run for each of ``count`` items, of the same status, with the same Dice to the bit."""
    ended = {t.user_attrs[ITEM]: t for t in trials() if t.state.name in STATUS}
    by_item = {run.tags["seglab.trial"]: run for run in runs()}
    assert len(ended) == len(by_item) == len(runs()) == count
    for key, trial in ended.items():
        run = by_item[key]
        assert run.status == STATUS[trial.state.name]
        assert ("seglab.pruned_at_epoch" in run.tags) == (trial.state.name == "PRUNED")
        if trial.state.name == "COMPLETE":
            assert trial.values == [run.metrics["val/dice"]]


def test_a_search_trains_what_is_asked_and_draws_the_leaders(write: Callable[..., Path]) -> None:
    path = write()
    outcome = run_search(load_study(path), open_store())
    assert outcome.trials == {"complete": 2, "pruned": 0, "failed": 0}
    assert_runs_equal_trials(2)
    assert outcome.rows[0].params == {"optim.lr": load_study(path).run.optim.lr}
    best, client = -1.0, open_store().client
    (parent,) = open_store().find_runs("tiny", {"seglab.kind": "sweep"})
    assert outcome.best is not None
    assert f"Dice {outcome.best.values[0]:.4f}" in parent.tags["mlflow.note.content"]
    assert "report/report.html" in list_artifacts(open_store(), parent.run_id)
    for row in outcome.rows:
        names = {item.path for item in client.list_artifacts(row.user_attrs[RUN])}
        drawn = {"curves.png", "overlays", "gallery"}
        assert {"patients_val.csv", "checkpoints"} <= names
        assert names & drawn == (drawn if row.values[0] > best else set())
        best = max(best, row.values[0])


def test_nothing_is_trained_to_confirm_that_the_base_config_is_best(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, store = load_study(write(confirm={"top": 1})), open_store()
    ended = ended_study((0.9, study.run.optim.lr), (0.5, 0.005))
    monkeypatch.setattr(confirm, "run_study", None)
    with start_run(store, "tiny", "sweep") as parent:
        outcome = SearchOutcome("tiny", parent.run_id, ended)
        report, told = confirm.confirm(study, outcome, parent)
    assert report is None
    assert "trial 000: the base config is the best" in told


def test_the_time_of_a_search_is_up_for_its_confirmation_too(write: Callable[..., Path]) -> None:
    study, store = load_study(write(confirm={"top": 1})), open_store()
    outcome = SearchOutcome("tiny", "", ended_study((0.4, study.run.optim.lr), (0.5, 0.005)))
    with start_run(store, "tiny", "sweep") as parent, pytest.raises(Interrupted):
        confirm.confirm(study, outcome, parent, deadline=0.0)
    (ablation,) = store.find_runs("tiny-confirmation")
    assert ablation.status == "KILLED"


def test_the_command_of_the_best_can_be_typed_as_it_is_printed(write: Callable[..., Path]) -> None:
    path = write(trials=1)
    path.write_text(path.read_text().replace("name: tiny", "name: two words"))
    outcome = run_search(load_study(path), open_store())
    assert outcome.best_config is not None
    for text in (outcome.best_config.read_text(), describe_search(outcome)):
        (line,) = [line for line in text.splitlines() if "run_experiment.py" in line]
        words = shlex.split(line[line.index("python") :])
        assert words[:2] == ["python", "run_experiment.py"]
        assert [Path(word).resolve() for word in words[2:]] == [outcome.best_config.resolve()]


def test_the_front_has_the_first_of_equals_and_nothing_that_another_beats() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for point in ((0.8, 5.0), (0.9, 7.0), (0.7, 6.0), (0.9, 7.0), (0.6, 1.0), (0.9, 8.0)):
        study.add_trial(optuna.trial.create_trial(values=point))
    front = SearchOutcome("tiny", "", study, "parameters").front
    assert [trial.number for trial in front] == [4, 0, 1]


@pytest.mark.parametrize("flag", ["--trials", "--workers", "--timeout"])
def test_none_is_no_number_of_anything(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main(["sweep", str(write()), flag, "0"]) == 2
    assert capsys.readouterr().err == f"error: {flag} 0: must be above 0\n"


def test_what_is_no_search_is_sent_to_the_other_command(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    assert main(["sweep", str(path), "search=null"]) == 2
    assert "run_experiment.py" in capsys.readouterr().err
    assert main(["run", str(path)]) == 2
    assert "sweep.py" in capsys.readouterr().err


def test_a_search_of_an_earlier_version_is_refused_by_name(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    journal = Path("mlruns/optuna/tiny.log")
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n")
    assert main(["sweep", str(path)]) == 2
    assert "name=" in capsys.readouterr().err


def test_another_space_is_refused(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(trials=1)
    assert main(["sweep", str(path)]) == 0
    assert main(["sweep", str(path), "search.space.optim.lr.high=0.01"]) == 2
    assert "optim.lr" in capsys.readouterr().err


@pytest.mark.slow
def test_kills_of_worker_and_parent_lose_and_double_nothing(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(epochs=6, trials=4)
    first = start(path, "--workers", "2")
    wait_until(lambda: epochs_done() >= 2)
    os.kill(child_pids(first)[0], signal.SIGKILL)
    wait_until(lambda: epochs_done() >= 6)
    first.kill()
    first.communicate()
    out, err = start(path, "--workers", "2").communicate(timeout=600)
    told = json.loads(out)
    assert told["trials"]["complete"] + told["trials"]["pruned"] == 4, err
    assert told["trials"]["failed"] == 0
    assert_runs_equal_trials(4)
    assert not open_store().find_runs(statuses=["RUNNING"])
    assert main(["run", told["best_config"], "--json"]) == 0
    (again,) = json.loads(capsys.readouterr().out)["runs"]
    assert again["val/dice"] == told["best"]["value"]


@pytest.mark.slow
def test_kills_of_an_ablations_worker_and_parent_leave_each_run_once(
    write: Callable[..., Path],
) -> None:
    path = write(epochs=6)
    document = yaml.safe_load(path.read_text())
    del document["search"]
    arms = {"a": {}, "b": {"loss": "bce"}}
    path.write_text(yaml.safe_dump({**document, "arms": arms, "seeds": [0, 1]}))
    trained = {"seglab.kind": "train"}

    def begun() -> int:
        return sum("val/dice" in run.metrics for run in open_store().find_runs("tiny", trained))

    first = start(path, "--workers", "2", script="run_experiment.py")
    wait_until(begun)
    os.kill(child_pids(first)[0], signal.SIGKILL)
    wait_until(lambda: begun() >= 2)
    first.kill()
    first.communicate()
    out, err = start(path, "--workers", "2", script="run_experiment.py").communicate(timeout=600)
    told = json.loads(out)["runs"]
    assert {(run["arm"], run["seed"]) for run in told} == {(arm, s) for arm in arms for s in (0, 1)}
    assert {run["status"] for run in told} == {"FINISHED"}, err
    assert len(open_store().find_runs("tiny", trained)) == 4
    assert not open_store().find_runs(statuses=["RUNNING"])


@pytest.mark.slow
def test_ctrl_c_interrupts_the_search_and_the_same_command_continues(
    write: Callable[..., Path],
) -> None:
    path = write(epochs=30, trials=2, pruner={"name": "none"})
    first = start(path)
    wait_until(lambda: epochs_done() >= 1)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=600)
    assert (first.returncode, out) == (130, "")
    assert "the same command continues" in err
    (parent,) = open_store().find_runs("tiny", {"seglab.kind": "sweep"})
    assert parent.status == "KILLED"
    assert {run.status for run in runs()} <= {"KILLED", "FINISHED"}
    out, _ = start(path).communicate(timeout=600)
    assert json.loads(out)["trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert_runs_equal_trials(2)


@pytest.mark.slow
def test_a_failing_trial_is_recorded_and_the_search_goes_on(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    weights: dict[str, Any] = {
        "choices": ["none", str(tmp_path / "absent")],
        "when": {"model.name": "smp-unet"},
    }
    path = write(
        trials=3,
        sampler="grid",
        space={"model.name": {"choices": ["unet", "smp-unet"]}, "model.encoder_weights": weights},
    )
    outcome = run_search(load_study(path, ["data.image_size=64"]), open_store())
    assert outcome.trials == {"complete": 2, "pruned": 0, "failed": 1}
    (failed,) = (row for row in outcome.rows if row.state.name == "FAIL")
    assert "absent" in failed.user_attrs[ERROR]

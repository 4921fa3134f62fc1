"""Whole searches: workers that die, Ctrl-C, trials that fail."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from torch import Tensor

from seglab.cli.main import main
from seglab.cli.train import describe_search
from seglab.core.registry import LOSSES
from seglab.core.study import load_study
from seglab.studies.experiment import Interrupted
from seglab.studies.queue import ERROR, ITEM, SURPLUS, open_storage
from seglab.studies.report.page import report_folder
from seglab.studies.search import run as search_run
from seglab.studies.search.confirm import confirm, confirmation_study
from seglab.studies.search.results import SearchOutcome, write_experiment
from seglab.studies.search.run import run_search
from seglab.studies.search.trials import RUN
from seglab.tracking.artifacts import list_artifacts
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import RunInfo, Store

Capture = pytest.CaptureFixture[str]
Content = Callable[[Store], dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}
Write = Callable[..., Path]


def ended(*found: tuple[float, float], name: str = "tiny") -> SearchOutcome:
    """A search with a complete trial of each Dice and learning rate."""
    study = optuna.create_study()
    between = {"optim.lr": optuna.distributions.FloatDistribution(1e-6, 1)}
    for dice, rate in found:
        params = {"optim.lr": rate}
        study.add_trial(optuna.trial.create_trial(value=dice, params=params, distributions=between))
    return SearchOutcome(name, "", study)


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweep.py"), str(path), "--json", *arguments],
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


def runs(kind: str = "trial") -> list[RunInfo]:
    return open_store().find_runs("tiny", {"seglab.kind": kind})


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


def test_a_search_trains_what_is_asked_once(
    write: Write, content: Content, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(confirm={"top": 2, "seeds": [100]})
    store = open_store()
    outcome = run_search(load_study(path), store)
    told = capsys.readouterr().err
    for line in (r"trial 001: optim\.lr=", r"trial 001 · seed 0  epoch .*dice", "2 of 2 trials"):
        assert re.search(line, told), line
    (parent,) = runs("sweep")
    page = report_folder(store, "tiny") / "report.html"
    said = describe_search(outcome, "tiny", page).splitlines()
    assert said[-2:] == [f"report: {page}", "next: python -m seglab promote tiny"]
    result = page.read_text().partition("<h2>Method</h2>")[0]
    (slices,) = {
        one["profile"]["slices"] for run in runs() for one in store.data_inputs(run.run_id)
    }
    assert slices == store.data_inputs(outcome.parent_run_id)[0]["profile"]["slices"] > 0
    is_base = outcome.best is outcome.base
    assert ("it is the base config, and no other was better" in result) == is_base
    assert ("that is the base config: no other trial was better" in said) == is_base
    assert outcome.trials == {"complete": 2, "pruned": 0, "failed": 0}
    assert_runs_equal_trials(2)
    assert outcome.rows[0].params == {"optim.lr": load_study(path).run.optim.lr}
    assert outcome.best is not None
    assert parent.metrics["val/dice"] == outcome.best.values[0]
    assert f"Dice {outcome.best.values[0]:.4f}" in parent.tags["mlflow.note.content"]
    assert "report/report.html" in list_artifacts(store, parent.run_id)
    logged = [store.data_inputs(run.run_id) for run in (parent, *runs())]
    profile = {"patients": 6, "slices": 60, "left_out": []}
    assert logged == [[{"name": "brats-h5", "source": "brats-h5:set", "profile": profile}]] * 3
    best = -1.0
    for row in outcome.rows:
        names = {item.path for item in store.client.list_artifacts(row.user_attrs[RUN])}
        drawn = {"curves.png", "overlays", "gallery"}
        assert {"patients_val.csv", "checkpoints"} <= names
        assert names & drawn == (drawn if row.values[0] > best else set())
        best = max(best, row.values[0])

    before = content(store)
    capsys.readouterr()
    assert main(["sweep", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == outcome.to_json()
    assert main(["sweep", str(path), "search.space.optim.lr.high=0.01"]) == 2
    assert "optim.lr" in capsys.readouterr().err
    assert content(store) == before, "neither changes anything"

    monkeypatch.setattr(search_run, "code_hash", lambda: "changed")
    assert main(["sweep", str(path), "--trials", "3", "--timeout", "1e-6"]) == 0
    assert re.search("2 of 2 trials were made with other code", capsys.readouterr().err)


def test_the_base_config_is_not_confirmed_against_itself(write: Write) -> None:
    study = load_study(write(confirm={"top": 1}))
    told = confirmation_study(study, ended((0.9, study.run.optim.lr), (0.5, 0.005)))
    assert told == "the base config is the best of the search itself"


def test_the_time_of_a_search_is_up_for_its_confirmation_too(write: Write) -> None:
    study, store = load_study(write(confirm={"top": 1})), open_store()
    outcome = ended((0.4, study.run.optim.lr), (0.5, 0.005))
    with start_run(store, "tiny", "sweep") as parent, pytest.raises(Interrupted):
        confirm(study, outcome, parent, deadline=0.0)
    (ablation,) = store.find_runs("tiny-confirmation")
    assert ablation.status == "KILLED"


def test_the_command_of_the_best_can_be_typed_as_it_is_printed(
    write: Write, tmp_path: Path
) -> None:
    run, path = load_study(write()).run, Path("two words.best.yaml").absolute()
    write_experiment(path, run, "two words best")
    outcome = ended((0.4, 0.002), (0.5, 0.001), name="two words")
    outcome = replace(outcome, best_config=path)
    for text in (path.read_text(), describe_search(outcome, "tiny", tmp_path / "absent.html")):
        (line,) = [line for line in text.splitlines() if "run_experiment.py" in line]
        words = shlex.split(line[line.index("python") :])
        assert words[:2] == ["python", "run_experiment.py"]
        assert [Path(word).resolve() for word in words[2:]] == [path.resolve()]
    assert load_study(path).name == "two words best"


def test_the_front_has_the_first_of_equals_and_nothing_that_another_beats() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for point in ((0.8, 5.0), (0.9, 7.0), (0.7, 6.0), (0.9, 7.0), (0.6, 1.0), (0.9, 8.0)):
        study.add_trial(optuna.trial.create_trial(values=point))
    front = SearchOutcome("tiny", "", study, "parameters").front
    assert [trial.number for trial in front] == [4, 0, 1]


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("sweep", ["--trials", "0"], "error: --trials 0: must be above 0\n"),
        ("sweep", ["--workers", "0"], "error: --workers 0: must be above 0\n"),
        ("sweep", ["--timeout", "0"], "error: --timeout 0: must be above 0\n"),
        ("sweep", ["search=null"], "run_experiment.py"),
        ("run", [], "sweep.py"),
        ("sweep", ["name=old"], "name="),
    ],
)
def test_what_is_no_search_is_refused(
    write: Write, capsys: Capture, command: str, arguments: list[str], told: str
) -> None:
    journal = Path("mlruns/optuna/old.log")  # of a search of an earlier version
    path = write()
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n")
    assert main([command, str(path), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_failing_trial_is_recorded_and_the_search_goes_on(write: Write) -> None:
    def explodes() -> Callable[[Tensor, Tensor], Tensor]:
        """Is infinite."""
        return lambda logits, mask: logits.mean() * float("inf")

    LOSSES.register("explodes")(explodes)
    choices = {"loss.name": {"choices": ["explodes", "bce_dice"]}}
    outcome = run_search(load_study(write(sampler="grid", space=choices)), open_store())
    assert outcome.trials == {"complete": 1, "pruned": 0, "failed": 1}
    (failed,) = (row for row in outcome.rows if row.state.name == "FAIL")
    assert "step 1" in failed.user_attrs[ERROR]


@pytest.mark.slow
def test_kills_of_worker_and_parent_lose_nothing(write: Write, capsys: Capture) -> None:
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
def test_ctrl_c_interrupts_the_search_and_the_same_command_continues(write: Write) -> None:
    path = write(epochs=30, pruner={"name": "none"})
    first = start(path)
    wait_until(lambda: epochs_done() >= 1)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=600)
    assert (first.returncode, out) == (130, "")
    assert "the same command continues" in err
    (parent,) = runs("sweep")
    assert parent.status == "KILLED"
    assert {run.status for run in runs()} <= {"KILLED", "FINISHED"}
    out, _ = start(path).communicate(timeout=600)
    assert json.loads(out)["trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert_runs_equal_trials(2)

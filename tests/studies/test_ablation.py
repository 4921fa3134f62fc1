"""Ablations that are really trained, on phantoms of a second a run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from seglab.core.errors import UserError
from seglab.core.study import Study
from seglab.data.open import open_data
from seglab.studies import ablation, experiment, workers
from seglab.studies.ablation import open_parent, run_study
from seglab.studies.comparison import Budgets
from seglab.studies.plan import make_plan, write_plan
from seglab.studies.queue import DONE, SPENT, Queue
from seglab.studies.results import collect
from seglab.studies.tuning import TUNING_SEED
from seglab.tracking.store import Store

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Content = Callable[[Store], dict[str, Any]]
Build = Callable[..., Study]
ARMS = {"base": {}, "bce": {"loss": {"name": "bce"}}}
BROKEN = {"name": "smp-unet", "encoder_weights": "/absent.safetensors"}


def test_arms_by_seeds_are_children_of_one_run(
    build: Build, store: Store, capsys: Capture, monkeypatch: Patch
) -> None:
    arms: dict[str, Any] = {**ARMS, "broken": {"model": BROKEN}}
    study = build(name="arms", arms=arms, seeds=[0, 1], baseline="base")
    first = run_study(study, store)
    assert [(run.arm, run.seed, run.status) for run in first.runs] == [
        (arm, seed, "FAILED" if arm == "broken" else "FINISHED") for seed in (0, 1) for arm in arms
    ]
    page = Path(str(first.report)).read_text()
    assert "Five patients segmented by every arm" in page
    assert "broken" in page
    assert "absent.safetensors" in page
    told = capsys.readouterr().err
    assert "wins : losses" in told
    assert "or set split.folds=3\n" in told.partition("run 1 of")[0], "before the first training"
    child = store.get_run(first.runs[1].run_id)
    assert child.parent_run_id == first.parent_run_id
    assert child.params["loss.name"] == "bce"

    again = run_study(study, store)
    done = {run.run_id for run in first.runs if run.status == "FINISHED"}
    assert again.parent_run_id == first.parent_run_id
    assert {run.run_id for run in again.runs if run.reused} == done

    with monkeypatch.context() as patch:
        for module in (ablation, experiment):
            patch.setattr(module, "code_hash", lambda: "changed")
        with open_parent(study, store, open_data(study.run), fresh=False) as other:
            assert other.run_id != first.parent_run_id
    assert f"a finished run exists ({first.parent_run_id}), made with" in capsys.readouterr().err

    more = run_study(build(name="arms", arms=ARMS | {"dice": {"loss": "dice"}}, seeds=[0]), store)
    assert more.parent_run_id == first.parent_run_id
    assert [run.reused for run in more.runs] == [True, True, False]

    some = run_study(build(name="arms", arms={"dice": {"loss": "dice"}}, seeds=[0]), store)
    parent = store.get_run(str(some.parent_run_id))
    assert parent.run_id == first.parent_run_id
    assert list(json.loads(parent.tags["seglab.arms"])) == ["base", "bce", "broken", "dice"]
    assert parent.tags["seglab.baseline"] == "base"
    assert json.loads(parent.tags["seglab.failures"])["broken"]


def test_folds_predict_every_patient_but_the_test_ones(build: Build, store: Store) -> None:
    assert build(split={"folds": 3, "fold": 1}).folds == (1,)
    study = build(name="folds", split={"folds": 2})
    outcome = run_study(study, store)
    assert [run.status for run in outcome.runs] == ["FINISHED", "FINISHED"]
    assert [run.to_json()["fold"] for run in outcome.runs] == [0, 1]
    (arm,) = collect(store, store.get_run(str(outcome.parent_run_id))).arms
    split = open_data(study.run).split
    assert [s.patient_id for s in arm.scores(0)] == sorted({*split.train, *split.val})
    assert Path(str(outcome.report)).is_file()


def test_tuning_tries_the_same_in_every_arm(build: Build, store: Store, content: Content) -> None:
    tune = {"trials": 2, "space": {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}}}
    study = build(name="tuned", arms=ARMS, tune=tune)
    outcome = run_study(study, store)
    parent = store.get_run(str(outcome.parent_run_id))
    ablation = collect(store, parent)
    tried = {
        arm: sorted(run.tags["seglab.values"] for run in trials)
        for arm, trials in ablation.trials.items()
    }
    assert tried["base"] == tried["bce"]
    assert len(tried["base"]) == 2
    seeds = {run.tags["seglab.seed"] for runs in ablation.trials.values() for run in runs}
    assert seeds == {str(TUNING_SEED)}
    chosen = json.loads(parent.tags["seglab.tuned"])
    for run in outcome.runs:
        trials = ablation.trials[run.arm]
        best = max(trials, key=lambda trial: trial.metrics["val/dice"])
        assert json.loads(best.tags["seglab.values"]) == chosen[run.arm]
        assert store.get_run(run.run_id).params["optim.lr"] == best.params["optim.lr"]
    assert "tuning runs" in Path(str(outcome.report)).read_text()
    notes = [run.tags["mlflow.note.content"] for run in store.find_runs("tuned")]
    assert all("artifacts/" in note for note in notes)
    for note in notes:
        line, blank, *_ = note.splitlines()
        assert not blank
        assert len(line) <= 90
        assert not re.search(r"[*_`\[\]\\|<>]", line), line
    assert sum("The baseline of the comparison" in note for note in notes) == 1
    assert sum("undecided" in note or "than base" in note for note in notes) == 2

    before = content(store)
    again = run_study(study, store)
    assert content(store) == before, "a finished command changes nothing in the store"
    assert [run.run_id for run in again.runs] == [run.run_id for run in outcome.runs]
    assert all(run.reused for run in again.runs)
    assert (again.parent_run_id, again.report) == (outcome.parent_run_id, outcome.report)
    more = run_study(build(name="tuned", arms=ARMS, tune=tune, baseline="bce"), store)
    assert more.parent_run_id == outcome.parent_run_id
    assert store.get_run(str(more.parent_run_id)).tags["seglab.baseline"] == "bce"


def test_no_arm_finished_is_told_by_the_parent(build: Build, store: Store, capsys: Capture) -> None:
    arms = {name: {"model": {**BROKEN, "name": name}} for name in ("smp-unet", "smp-linknet")}
    outcome = run_study(build(name="none", arms=arms), store)
    assert {run.status for run in outcome.runs} == {"FAILED"}
    assert outcome.report is None
    assert "nothing to compare in 'none': no arm has finished" in capsys.readouterr().err
    assert store.get_run(str(outcome.parent_run_id)).status == "FAILED"


def test_one_spent_worker_is_replaced_too_and_several_are_told(
    build: Build, store: Store, monkeypatch: Patch, capsys: Capture
) -> None:
    ends, pool = [SPENT, DONE], Mock()
    monkeypatch.setattr(Queue, "run", lambda *_: ends.pop(0))
    monkeypatch.setattr(workers, "_Pool", pool)
    run_study(build(name="spent", seeds=[0, 1]), store)
    assert pool.call_args.args[1] == 1
    assert ends == [DONE]
    assert "starting" not in capsys.readouterr().err
    run_study(build(name="two", seeds=[0, 1]), store, workers=2)
    assert capsys.readouterr().err.startswith("starting 2 workers …\n")


def tuned(key: str, **space: Any) -> dict[str, Any]:
    return {"arms": ARMS, "tune": {"trials": 3, "space": {key: space}}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_patients": [2, 99]}, r"^train\.patients: 99; the training part has \d$"),
        (tuned("loss.smooth", low=0.1, high=1), r"arm 'bce' (sets|has no key) 'loss\.smooth'"),
        (tuned("loss.name", choices=["bce", "dice"]), r"arm 'bce' sets 'loss\.name' itself"),
        (tuned("optim.lr", low=20, high=30), r"optim\.lr"),
        (tuned("optim.lr", low=1e-3, high=1e-2, when={"a": 1}), "'when' is for searches"),
    ],
)
def test_what_an_arm_cannot_do_is_refused_before_anything_runs(
    build: Build, store: Store, changed: dict[str, Any], said: str
) -> None:
    study = build(name="unfit", **changed)
    for begin in (run_study, write_plan, lambda study, _: make_plan(study)):
        with pytest.raises(UserError, match=said):
            begin(study, store)
    assert not store.find_runs("unfit")


def test_a_budget_of_seconds_ends_runs_by_the_clock_and_keeps_the_warm_up(build: Build) -> None:
    train = {"epochs": 8, "max_seconds": None}
    study = build(arms=ARMS, train=train, budget={"per": "seconds", "seconds": 30})
    for config in study.arms.values():
        assert config.train.max_seconds == 30
        assert config.train.epochs > 100
        assert config.schedule.warmup_epochs / config.train.epochs == pytest.approx(1 / 8)
    assert build(arms=ARMS, train=train).run.train.epochs == 8


def spent(*figures: float) -> dict[str, float]:
    keys = ("images", "train_seconds", "trials", "trial_images", "trial_seconds")
    return dict(itertools.zip_longest(keys, figures, fillvalue=0))


@pytest.mark.parametrize(
    ("unit", "one", "other", "differs"),
    [
        ("samples", (100, 100), (110, 900), False),
        ("samples", (100, 100), (111, 100), True),
        ("samples", (100, 100), (90, 100), True),
        ("seconds", (100, 100), (900, 110), False),
        ("seconds", (100, 100), (100, 89), True),
        ("samples", (100, 100), (100, 100, 1), True),
        ("samples", (100, 100, 6, 600, 600), (100, 100, 6, 661, 659), True),
        ("seconds", (100, 100, 6, 600, 600), (100, 100, 6, 661, 659), False),
    ],
)
def test_budgets_differ_beyond_a_tenth_of_what_was_declared(
    unit: Any, one: tuple[float, ...], other: tuple[float, ...], differs: bool
) -> None:
    budgets = Budgets(unit, {"a": spent(*one), "b": spent(*other)})
    assert budgets.differs("a", "b") is budgets.differs("b", "a") is differs
    assert budgets.all_equal is not differs
    assert ("Not ranked" in (budgets.refusal() or "")) is differs


def test_other_counts_of_tuning_trials_are_told_with_their_remedy() -> None:
    budgets = Budgets("samples", {"a": spent(100, 100, 6), "b": spent(100, 100, 5)})
    refusal = budgets.refusal() or ""
    assert "a 100 and 6 tuning trials of 0 in all, b 100 and 5 tuning trials of 0" in refusal
    assert "repeats tuning trials that failed" in refusal

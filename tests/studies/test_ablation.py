"""Ablations that are really trained, on phantoms of a second a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from seglab.core.errors import UserError
from seglab.core.registry import LOSSES
from seglab.core.study import Study
from seglab.data.open import open_data
from seglab.studies import workers
from seglab.studies.ablation import run_study
from seglab.studies.comparison import Budgets
from seglab.studies.plan import make_plan, plan_text, write_plan
from seglab.studies.queue import DONE, SPENT, Queue
from seglab.studies.results import collect
from seglab.studies.tuning import TUNING_SEED
from seglab.tracking.connect import open_store
from seglab.tracking.store import Store
from tests.studies.independent import assert_same_figures, logged_dice

Build = Callable[..., Study]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return open_store(tmp_path_factory.mktemp("store") / "mlruns")


@pytest.fixture(autouse=True)
def _added_loss() -> None:
    @LOSSES.register("softplus_of_a_test")
    def softplus_loss(*, weight: float = 1.0) -> Any:
        """Logistic loss, as a user would add one."""

        def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return weight * (softplus(logits) - logits * mask).mean()

        return loss


def test_more_training_patients_than_there_are_start_nothing(build: Build, store: Store) -> None:
    study = build(name="many", train_patients=[2, 99])
    for begin in (run_study, write_plan):
        with pytest.raises(UserError, match=r"^train\.patients: 99; the training part has \d$"):
            begin(study, store)
    assert not store.find_runs("many")


def test_arms_by_seeds_under_one_parent_each_child_once(
    build: Build, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    arms: dict[str, Any] = {
        "base": {},
        "added": {"loss": {"name": "softplus_of_a_test", "weight": 2.0}},
        "broken": {"model": {"name": "smp-unet", "encoder_weights": "/absent.safetensors"}},
    }
    study = build(name="arms", arms=arms, seeds=[0, 1], baseline="base")
    first = run_study(study, store)
    assert [(run.arm, run.seed, run.status) for run in first.runs] == [
        ("base", 0, "FINISHED"),
        ("added", 0, "FINISHED"),
        ("broken", 0, "FAILED"),
        ("base", 1, "FINISHED"),
        ("added", 1, "FINISHED"),
        ("broken", 1, "FAILED"),
    ]
    page = Path(str(first.report)).read_text()
    assert "Five patients segmented by every arm" in page
    assert "broken" in page
    assert "absent.safetensors" in page or "divisible" in page or "multiple" in page
    assert "wins : losses" in capsys.readouterr().err
    child = store.get_run(first.runs[1].run_id)
    assert child.parent_run_id == first.parent_run_id
    assert child.params["loss.weight"] == "2.0"

    again = run_study(build(name="arms", arms=arms, seeds=[0, 1], baseline="base"), store)
    done = {run.run_id for run in first.runs if run.status == "FINISHED"}
    assert again.parent_run_id == first.parent_run_id
    assert {run.run_id for run in again.runs if run.reused} == done

    del arms["broken"]
    more = run_study(build(name="arms", arms=arms | {"bce": {"loss": "bce"}}, seeds=[0]), store)
    assert more.parent_run_id == first.parent_run_id
    assert [run.reused for run in more.runs] == [True, True, False]

    some = run_study(build(name="arms", arms={"bce": {"loss": "bce"}}, seeds=[0]), store)
    parent = store.get_run(str(some.parent_run_id))
    assert parent.run_id == first.parent_run_id
    assert list(json.loads(parent.tags["seglab.arms"])) == ["base", "added", "broken", "bce"]
    assert parent.tags["seglab.baseline"] == "base"
    assert json.loads(parent.tags["seglab.failures"])["broken"]


def test_the_report_of_trained_runs_has_the_figures_of_scipy_and_statsmodels(
    build: Build, store: Store
) -> None:
    arms = {"base": {}, "bce": {"loss": "bce"}, "wide": {"model": {"base_channels": 8}}}
    study = build(
        name="figures", arms=arms, seeds=[0, 1], split={"fractions": [0.3, 0.6, 0.1]},
        train={"epochs": 2, "samples_per_epoch": 32},
    )  # fmt: skip
    parent_run_id = str(run_study(study, store).parent_run_id)
    path = store.client.download_artifacts(parent_run_id, "report/comparison.json")
    experiment = store.client.get_run(parent_run_id).info.experiment_id
    dice = logged_dice(store.client, parent_run_id, experiment)
    assert {arm: values.shape[0] for arm, values in dice.items()} == dict.fromkeys(arms, 2)
    assert np.ptp(dice["base"]) > 0
    assert_same_figures(json.loads(Path(path).read_text()), dice)


def test_folds_predict_every_patient_but_the_test_ones(build: Build, store: Store) -> None:
    study = build(name="folds", split={"folds": 2})
    outcome = run_study(study, store)
    assert [run.status for run in outcome.runs] == ["FINISHED", "FINISHED"]
    assert [run.to_json()["fold"] for run in outcome.runs] == [0, 1]
    (arm,) = collect(store, store.get_run(str(outcome.parent_run_id))).arms
    split = open_data(study.run).split
    assert [s.patient_id for s in arm.scores(0)] == sorted({*split.train, *split.val})
    assert Path(str(outcome.report)).is_file()


def test_only_a_fold_that_is_named_is_run(build: Build) -> None:
    assert build(split={"folds": 3}).folds == (0, 1, 2)
    assert build(split={"folds": 3, "fold": 1}).folds == (1,)
    assert build().folds == (0,)


def test_tuning_gives_every_arm_the_same_tries_and_logs_them(build: Build, store: Store) -> None:
    tune = {"trials": 2, "space": {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}}}
    arms = {"base": {}, "bce": {"loss": "bce"}}
    outcome = run_study(build(name="tuned", arms=arms, tune=tune), store)
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


def test_no_arm_finished_is_told_by_the_parent(build: Build, store: Store) -> None:
    absent = {"encoder_weights": "/absent.safetensors"}
    arms = {name: {"model": {"name": name, **absent}} for name in ("smp-unet", "smp-linknet")}
    outcome = run_study(build(name="none", arms=arms), store)
    assert {run.status for run in outcome.runs} == {"FAILED"}
    assert outcome.report is None
    assert store.get_run(str(outcome.parent_run_id)).status == "FAILED"


def test_one_worker_too_is_followed_by_another_process_after_an_unexpected_error(
    build: Build, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, pool = [SPENT, DONE], Mock()
    monkeypatch.setattr(Queue, "run", lambda *_: ends.pop(0))
    monkeypatch.setattr(workers, "_Pool", pool)
    run_study(build(name="spent", seeds=[0, 1]), store)
    assert pool.call_args.args[1] == 1
    assert ends == [DONE]


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({"loss.smooth": {"low": 0.1, "high": 1}}, r"arm 'bce' (sets|has no key) 'loss\.smooth'"),
        ({"loss.name": {"choices": ["bce", "dice"]}}, r"arm 'bce' sets 'loss\.name' itself"),
        ({"optim.lr": {"low": 20, "high": 30}}, r"optim\.lr"),
        (
            {"optim.lr": {"low": 1e-3, "high": 1e-2, "when": {"optim.name": "adam"}}},
            "'when' is for searches",
        ),
    ],
)
def test_a_space_that_does_not_fit_every_arm_is_refused_before_anything_runs(
    build: Build, store: Store, tune: dict[str, Any], said: str
) -> None:
    arms = {"base": {}, "bce": {"loss": {"name": "bce"}}}
    before = len(store.find_runs())
    study = build(name="unfit", arms=arms, tune={"trials": 3, "space": tune})
    with pytest.raises(UserError, match=said):
        run_study(study, store)
    with pytest.raises(UserError, match=said):
        make_plan(study)
    assert len(store.find_runs()) == before


def test_a_budget_of_seconds_ends_runs_by_the_clock_and_keeps_the_warm_up(build: Build) -> None:
    train = {"epochs": 8, "max_seconds": None}
    arms = {"a": {}, "b": {"loss": "bce"}}
    study = build(arms=arms, train=train, budget={"per": "seconds", "seconds": 30})
    for config in study.arms.values():
        assert config.train.max_seconds == 30
        assert config.train.epochs > 100
        assert config.schedule.warmup_epochs / config.train.epochs == pytest.approx(1 / 8)
    assert build(arms=arms, train=train).run.train.epochs == 8


def spent(*figures: float) -> dict[str, float]:
    keys = ("images", "train_seconds", "trials", "trial_images", "trial_seconds")
    return dict(itertools.zip_longest(keys, figures, fillvalue=0))


@pytest.mark.parametrize(
    ("unit", "images", "seconds", "trials", "differs"),
    [
        ("samples", 110, 900, 0, False),
        ("samples", 111, 100, 0, True),
        ("samples", 90, 100, 0, True),
        ("seconds", 900, 110, 0, False),
        ("seconds", 100, 89, 0, True),
        ("samples", 100, 100, 1, True),
    ],
)
def test_budgets_differ_beyond_a_tenth_of_what_was_declared(
    unit: Any, images: float, seconds: float, trials: int, differs: bool
) -> None:
    budgets = Budgets(unit, {"a": spent(100, 100), "b": spent(images, seconds, trials)})
    assert budgets.differs("a", "b") is budgets.differs("b", "a") is differs
    assert budgets.all_equal is not differs
    assert ("Not ranked" in (budgets.refusal() or "")) is differs


def test_other_counts_of_tuning_trials_are_told_with_their_remedy() -> None:
    budgets = Budgets("samples", {"a": spent(100, 100, 6), "b": spent(100, 100, 5)})
    refusal = budgets.refusal() or ""
    assert "a 100 and 6 tuning trials of 0 in all, b 100 and 5 tuning trials of 0" in refusal
    assert "repeats tuning trials that failed" in refusal


@pytest.mark.parametrize(("unit", "differs"), [("samples", True), ("seconds", False)])
def test_tuning_on_more_than_a_tenth_more_is_another_budget(unit: Any, differs: bool) -> None:
    arms = {"a": spent(100, 100, 6, 600, 600), "b": spent(100, 100, 6, 661, 659)}
    assert Budgets(unit, arms).differs("a", "b") is differs


def test_a_plan_times_each_network_once_and_gives_a_range(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Mock(side_effect=[0.5, 2.0])  # seconds an image
    monkeypatch.setattr("seglab.studies.plan._seconds_per_image", timed)
    arms = {"a": {}, "b": {"loss": "bce"}, "c": {"model": {"base_channels": 8}}}
    plan = make_plan(build(arms=arms, seeds=[0, 1]))
    a, b, c = (arm["estimated_seconds"] for arm in plan["arms"])
    assert timed.call_count == 2
    assert (a, c) == (b, pytest.approx(4 * a))
    assert a >= 0.5 * plan["arms"][0]["images"]
    assert plan["estimated_seconds"] == pytest.approx(2 * (a + b + c))
    assert "one run after the other" in plan_text(plan)
    assert plan["at_most_seconds"] == pytest.approx(2 * plan["estimated_seconds"])

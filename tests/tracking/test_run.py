"""What runs log, how they end, how they go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from seglab.core.errors import UserError
from seglab.tracking.environment import environment_tags
from seglab.tracking.errors import StoreUnavailable
from seglab.tracking.run import RunLog, resume_run, start_run
from seglab.tracking.store import Store, UnknownRun
from seglab.tracking.tags import INTERRUPTED, KIND


@pytest.fixture(params=["local", "server"])
def any_store(request: pytest.FixtureRequest) -> Store:
    """Both kinds of store behave alike."""
    name = {"local": "store", "server": "remote"}[request.param]
    found = request.getfixturevalue(name)
    assert isinstance(found, Store)
    return found


def test_everything_a_run_logs_is_there(any_store: Store, tmp_path: Path) -> None:
    with start_run(any_store, "kinds", "unet · seed 0", {"seglab.kind": "train"}) as run:
        run.params({"loss.name": "dice", "optim.lr": 1e-3, "train.patience": None, "seeds": [0, 1]})
        for step in range(3):
            run.metrics({"val/dice": 0.5 + step / 10, "train/loss": 1 - step / 10}, step)
        run.text("name: x\n", "config.yaml")
        run.json({"train": ["a"]}, "deep/er/split.json")
        run.figure(Figure(figsize=(2, 1)), "curves.png")
        run.dataset("phantom", "f" * 64, "brats-h5", profile={"patients": 3})
        (tmp_path / "overlays").mkdir()
        (tmp_path / "overlays" / "a.png").write_bytes(b"png")
        run.artifact(tmp_path / "overlays", "overlays")
    found = any_store.get_run(run.run_id)
    assert (found.name, found.status) == ("unet · seed 0", "FINISHED")
    assert found.params == {
        "loss.name": "dice",
        "optim.lr": "0.001",
        "train.patience": "null",
        "seeds": "[0, 1]",
    }
    assert found.metrics == pytest.approx({"val/dice": 0.7, "train/loss": 0.8})
    history = any_store.metric_history(run.run_id, "val/dice")
    assert history == [(0, 0.5), (1, 0.6), (2, pytest.approx(0.7))]
    (tmp_path / "got").mkdir()
    names = ("config.yaml", "deep/er/split.json", "curves.png", "overlays/a.png")
    downloads = [
        any_store.client.download_artifacts(run.run_id, name, str(tmp_path / "got"))
        for name in names
    ]
    config, split, curves, overlay = (Path(path).read_bytes() for path in downloads)
    assert (config, json.loads(split)) == (b"name: x\n", {"train": ["a"]})
    assert (curves[:4], overlay) == (b"\x89PNG", b"png")
    (logged,) = any_store.client.get_run(run.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("phantom", "f" * 36)
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_many_params_and_metrics_exceed_one_batch(store: Store) -> None:
    params = {f"p{number}": number for number in range(250)}
    metrics = {f"m{number}": float(number) for number in range(1200)}
    with start_run(store, "kinds", "wide", {f"t{number}": "x" for number in range(99)}) as run:
        run.params(params)
        run.metrics(metrics, 0)
    found = store.get_run(run.run_id)
    assert found.params == {key: str(value) for key, value in params.items()}
    assert found.metrics == metrics


def test_only_finite_metrics_are_stored(store: Store) -> None:
    with start_run(store, "kinds", "finite") as run:
        run.metrics({"x": math.nan, "y": math.inf, "z": -math.inf, "sure": -1e300}, 0)
    assert store.get_run(run.run_id).metrics == {"sure": -1e300}


@pytest.mark.parametrize(
    ("end", "status", "tags"),
    [
        (lambda run: run.finish(), "FINISHED", {}),
        (
            lambda run: run.fail(ValueError("NaN; see postgresql://me:secret@db")),
            "FAILED",
            {"seglab.error": "ValueError: NaN; see postgresql://***@db"},
        ),
        (lambda run: run.prune(4), "KILLED", {"seglab.pruned_at_epoch": "4"}),
        (lambda run: run.interrupt("SIGTERM"), "KILLED", {"seglab.interrupted": "SIGTERM"}),
    ],
)
def test_the_status_tells_the_truth(
    any_store: Store, end: Callable[[RunLog], None], status: str, tags: dict[str, str]
) -> None:
    run = start_run(any_store, "ends", "run")
    end(run)
    run.finish()  # the first end stands
    found = any_store.get_run(run.run_id)
    assert found.status == status
    own = {key: value for key, value in found.tags.items() if key.startswith("seglab.")}
    assert {key: own[key] for key in own.keys() - environment_tags().keys()} == tags


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [
        (ValueError("broken"), "FAILED", "seglab.error"),
        (UserError("no such file"), "FAILED", "seglab.error"),
        (KeyboardInterrupt(), "KILLED", INTERRUPTED),
        (StoreUnavailable("the server does not answer"), "KILLED", INTERRUPTED),
    ],
)
def test_an_exception_ends_the_run(
    store: Store, error: BaseException, status: str, tag: str
) -> None:
    run = start_run(store, "ends", "run")
    with pytest.raises(type(error)), run:
        raise error
    found = store.get_run(run.run_id)
    assert found.status == status
    assert str(error) in found.tags[tag]
    assert not store.in_use(run.run_id)
    assert not run.state.exists()


def test_no_metric_twice_after_a_kill(
    any_store: Store, log_and_die: Callable[[Store, Callable[[RunLog], object]], str]
) -> None:
    """A process is killed after logging epoch 2; its checkpoint is of epoch 0."""

    def log_three_epochs(run: RunLog) -> None:
        run.params({"optim.lr": 0.1, "data.root": "/old"})
        for epoch in range(3):
            run.metrics({"val/dice": epoch / 10, "lr": 0.1}, epoch)

    run_id = log_and_die(any_store, log_three_epochs)
    assert any_store.get_run(run_id).status == "RUNNING"

    run = resume_run(any_store, run_id)
    run.params({"optim.lr": 0.1, "data.root": "/new", "extra": 1})
    for epoch in range(1, 5):
        run.metrics({"val/dice": epoch / 10, "lr": 0.1}, epoch)
    run.finish()
    found = any_store.get_run(run_id)
    assert found.status == "FINISHED"
    assert found.params == {"optim.lr": "0.1", "data.root": "/old", "extra": "1"}
    expected = [(epoch, epoch / 10) for epoch in range(5)]
    assert any_store.metric_history(run_id, "val/dice") == expected
    assert any_store.metric_history(run_id, "lr") == [(epoch, 0.1) for epoch in range(5)]


def test_two_machines_log_a_step_of_their_parent_once(store: Store, tmp_path: Path) -> None:
    with start_run(store, "shared", "parent", {KIND: "ablation"}) as one:
        one.metrics({"val/dice": 0.5}, step=1)
        with resume_run(replace(store, folder=tmp_path / "two"), one.run_id) as two:
            two.metrics({"val/dice": 0.6}, step=2)
            one.metrics({"val/dice": 0.6}, step=2)
    assert store.metric_history(one.run_id, "val/dice") == [(1, 0.5), (2, 0.6)]


def test_a_finished_run_that_is_looked_at_again_can_keep_its_end_time(store: Store) -> None:
    start_run(store, "again", "a").finish()
    (ended,) = store.find_runs("again")
    resume_run(store, ended.run_id).finish(only_looked=True)
    assert store.get_run(ended.run_id).end_time == ended.end_time
    resume_run(store, ended.run_id).finish()
    assert store.get_run(ended.run_id).end_time != ended.end_time


def test_resuming_clears_how_the_run_ended(any_store: Store) -> None:
    run = start_run(any_store, "ends", "run")
    run.interrupt("Ctrl-C")
    again = resume_run(any_store, run.run_id)
    found = any_store.get_run(run.run_id)
    assert found.status == "RUNNING"
    assert "seglab.interrupted" not in found.tags
    again.finish()
    assert any_store.get_run(run.run_id).status == "FINISHED"


def test_an_interrupt_while_a_run_is_opened_again_leaves_it_to_be_continued(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(any_store, "ends", "run")
    run.interrupt("Ctrl-C")
    update = any_store.client.update_run

    def hit(run_id: str, status: str) -> None:
        update(run_id, status=status)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(any_store.client, "update_run", hit)
        with pytest.raises(KeyboardInterrupt):
            resume_run(any_store, run.run_id)
    found = any_store.get_run(run.run_id)
    assert found.status == "KILLED"
    assert found.tags["seglab.interrupted"] == "KeyboardInterrupt while it was opened again"
    assert any_store.may_continue(found)
    resume_run(any_store, run.run_id).finish()
    assert not any_store.state(run.run_id).exists()


def test_a_run_is_open_in_one_place(store: Store) -> None:
    run = start_run(store, "ends", "run")
    with pytest.raises(UserError, match="open in another process"):
        resume_run(store, run.run_id)
    run.finish()
    resume_run(store, run.run_id).finish()


def test_resuming_an_unknown_run_leaves_nothing(store: Store) -> None:
    with pytest.raises(UnknownRun):
        resume_run(store, "0" * 32)
    assert not store.state("0" * 32).exists()


def test_a_run_that_finished_was_not_interrupted(any_store: Store) -> None:
    """Of several machines that share a run one is stopped, and another ends the work."""
    run = start_run(any_store, "shared", "sweep")
    any_store.client.set_tag(run.run_id, INTERRUPTED, "the time was up")
    any_store.client.set_terminated(run.run_id, "KILLED")
    run.finish()
    found = any_store.get_run(run.run_id)
    assert found.status == "FINISHED"
    assert INTERRUPTED not in found.tags

"""One run: what an error ends for good, and what the same command goes on with."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.data.open import open_data
from seglab.learning.training import LAST, WEIGHTS
from seglab.studies import experiment, outputs
from seglab.studies.experiment import OpenRun, Plan, open_run, train_one
from seglab.tracking import environment
from seglab.tracking.artifacts import list_artifacts
from seglab.tracking.errors import StoreUnavailable
from seglab.tracking.store import RunInfo, RunInUse, Store

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Planned = Callable[..., Plan]
Build = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def plan(small_config: Build) -> Planned:
    """Plan a run of this name; all are the same training."""
    return lambda name, **changes: Plan(small_config(name=name, **changes), name)


@pytest.fixture(scope="module")
def undisturbed(plan: Planned, store: Store) -> RunInfo:
    return store.get_run(train_one(plan("whole"), store).run_id)


def test_a_result_of_other_code_or_packages_is_named_before_it_is_trained_again(
    plan: Planned, store: Store, undisturbed: RunInfo, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(experiment, "train", lambda *_, **__: None)
    monkeypatch.setattr(experiment, "code_hash", lambda: "changed")
    told = f"a finished run exists ({undisturbed.run_id}), made with other code (code hash "
    train_one(plan("whole"), store)
    assert told in capsys.readouterr().err
    monkeypatch.setattr(environment, "_versions", lambda names: {"torch": "0.1+cpu"})
    train_one(plan("whole"), store)
    assert re.search("made with torch .* instead of 0.1.*, here changed", capsys.readouterr().err)
    train_one(plan("new"), store)
    assert "made with" not in capsys.readouterr().err


def begin(plan: Plan, store: Store) -> OpenRun:
    """Start a run, and train its first epoch."""
    run = open_run(plan, store, open_data(plan.config))
    next(run.epochs())
    return run


def steps(store: Store, run: RunInfo) -> dict[str, list[int]]:
    """Steps of every metric but those of the machine, which MLflow takes at times of its own."""
    metrics = [key for key in run.metrics if not key.startswith("system/")]
    return {key: [step for step, _ in store.metric_history(run.run_id, key)] for key in metrics}


def finish(plan: Plan, store: Store, undisturbed: RunInfo) -> RunInfo:
    """Give the command again: its run ends as if nothing had happened, and keeps no checkpoint."""
    outcome = train_one(plan, store)
    run = store.get_run(outcome.run_id)
    assert outcome.status == run.status == "FINISHED"
    assert run.metrics["val/dice"] == undisturbed.metrics["val/dice"]
    assert not store.state(run.run_id).exists()
    return run


def test_a_run_that_failed_in_the_end_is_finished(
    plan: Planned, store: Store, undisturbed: RunInfo, tmp_path: Path
) -> None:
    run = open_run(plan("ends"), store, open_data(plan("ends").config))
    with suppress(FileNotFoundError), pytest.MonkeyPatch.context() as without_room, run:
        assert len(list(run.epochs())) == 3
        without_room.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
        run.conclude()
    failed = run.log.run_id
    assert store.get_run(failed).status == "FAILED"
    environment = next((store.folder / "artifacts/ends").rglob("environment.json"))
    written = environment.stat().st_mtime_ns
    found = finish(plan("ends"), store, undisturbed)
    assert [one.run_id for one in store.find_runs("ends")] == [found.run_id] == [failed]
    assert "seglab.error" not in found.tags
    assert steps(store, found) == steps(store, undisturbed)
    assert "gallery/index.html" in list_artifacts(store, failed)
    assert environment.stat().st_mtime_ns == written, "what was known at the start is kept"


def test_half_a_checkpoint_is_no_start(plan: Planned, store: Store, undisturbed: RunInfo) -> None:
    run = begin(plan("cut"), store)
    (run.log.state / LAST).rename(run.log.state / f".{LAST}.4711")  # half written
    run.log._lock.release()  # as its process's death does
    found = finish(plan("cut"), store, undisturbed)
    assert [one.run_id for one in store.find_runs("cut")] == [found.run_id] == [run.log.run_id]
    assert steps(store, found)["val/dice"] == [1, 2, 3]


def test_a_run_that_diverged_is_over(plan: Planned, store: Store) -> None:
    run = begin(plan("diverged"), store)
    error = TrainingDiverged("loss is nan at epoch 2")
    run.__exit__(type(error), error, None)
    assert store.get_run(run.log.run_id).status == "FAILED"
    assert not run.log.state.exists()


@pytest.mark.parametrize(("error", "begun"), [(StoreUnavailable, 1), (UserError, 1), (RunInUse, 2)])
def test_only_a_run_that_is_in_use_is_passed_over(
    plan: Planned, store: Store, monkeypatch: Patch, error: Any, begun: int
) -> None:
    """A store that is away or full begins no other run while a checkpoint is there."""
    again = plan(f"again {error.__name__}")
    begin(again, store).__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    def refuses(*_: object) -> None:
        raise error("refused")

    monkeypatch.setattr(experiment, "resume_run", refuses)
    with suppress(error):
        open_run(again, store, open_data(again.config)).__exit__(None, None, None)
    assert len(store.find_runs(again.config.name)) == begun


@pytest.mark.parametrize(
    "broken",
    [
        {
            "learning_curves": "curves.png is not drawn",
            "write_overlays": "overlays are not drawn",
            "write_gallery": "the gallery is not written",
        },
        {"explain": "failures are not explained"},
    ],
    ids=["pictures", "explanations"],
)
def test_what_cannot_be_drawn_or_explained_is_a_warning(
    plan: Planned, store: Store, monkeypatch: Patch, capsys: Capture, broken: dict[str, str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("cannot open font")

    for name in broken:
        monkeypatch.setattr(outputs, name, fails)
    outcome = train_one(plan(f"{len(broken)} broken", train={"epochs": 1}), store)
    assert outcome.status == store.get_run(outcome.run_id).status == "FINISHED"
    told = capsys.readouterr().err
    for warning in broken.values():
        assert f"warning: {warning}: RuntimeError: cannot open font" in told
    files = set(list_artifacts(store, outcome.run_id))
    assert {"patients_val.csv", f"checkpoints/{WEIGHTS}"} <= files
    assert ("curves.png" in files) == ("learning_curves" not in broken)
    assert "gallery/index.html" not in files


def test_a_dice_of_zero_says_why(plan: Planned, store: Store, capsys: Capture) -> None:
    high = plan("zero", train={"epochs": 1}, evaluation={"threshold": 0.999999})
    assert train_one(high, store).metrics["val/dice"] == 0
    told = capsys.readouterr().err
    assert "val/dice is 0: no pixel reached the threshold of 0.999999; the highest" in told


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_scores_are_of_the_weights_kept(plan: Planned, store: Store, keep: str) -> None:
    outcome = train_one(plan(keep, train={"epochs": 4, "keep": keep}), store)
    run = store.get_run(outcome.run_id)
    epoch = int(run.metrics["val/kept_epoch"])
    dices = dict(store.metric_history(run.run_id, "val/dice"))
    assert epoch == (4 if keep == "last" else run.metrics["val/best_epoch"])
    assert outcome.metrics["val/dice"] == run.metrics["val/dice"] == dices[epoch]
    own_step = [5] if epoch < 4 else []
    assert list(dices) == [1, 2, 3, 4, *own_step], "no curve has a point that is no epoch's"

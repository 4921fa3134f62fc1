"""One run: what an error ends for good, and what the same command goes on with."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.data.open import open_data
from seglab.evaluation.failure_report import best_median_worst
from seglab.evaluation.metrics import score_patient
from seglab.learning.training import LAST, WEIGHTS
from seglab.studies import experiment, outputs
from seglab.studies.experiment import OpenRun, Outcome, Plan, open_run, train_one
from seglab.tracking.artifacts import list_artifacts
from seglab.tracking.connect import open_store
from seglab.tracking.errors import StoreUnavailable
from seglab.tracking.store import RunInUse, Store
from tests.faults.tmpfs import KB, enlarge, fill_up

Build = Callable[..., RunConfig]
Mount = Callable[[Path, int], Path]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(tmp_path / "mlruns")


def fail_in_the_end(plan: Plan, store: Store, tmp_path: Path) -> str:
    """Train every epoch, and find no room for the pictures."""
    run = open_run(plan, store, open_data(plan.config))
    with pytest.raises(FileNotFoundError), pytest.MonkeyPatch.context() as patch, run:
        _train_without_room(run, patch, tmp_path)
    return run.log.run_id


def _train_without_room(run: OpenRun, patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for _ in run.epochs():
        pass
    patch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    run.conclude()


def steps(store: Store, run_id: str) -> dict[str, list[int]]:
    """Steps of every metric but those of the machine, which MLflow takes at times of its own."""
    metrics = [key for key in store.get_run(run_id).metrics if not key.startswith("system/")]
    return {key: [step for step, _ in store.metric_history(run_id, key)] for key in metrics}


def test_the_method_looks_alike_whatever_seed_fold_and_loss(small_config: Build) -> None:
    def shown(**given: Any) -> str:
        return outputs.method_hash(small_config(**given), "data")

    folds = {"folds": 3, "fold": 0}
    assert shown(seed=3, loss="dice", name="other") == shown()
    assert shown(split={**folds, "fold": 2}) == shown(split=folds) != shown()
    assert outputs.method_hash(small_config(), "other data") != shown()
    for block in {"model": {"depth": 2}}, {"augment": "mirror"}, {"data": {"context": 1}}:
        assert shown(**block) != shown()


def test_a_run_that_failed_after_its_epochs_is_finished_by_the_same_command(
    small_config: Build, store: Store, tmp_path: Path
) -> None:
    plan = Plan(small_config(name="ends"), "ends")
    whole: Outcome = train_one(Plan(small_config(name="whole"), "ends"), store)
    failed = fail_in_the_end(plan, store, tmp_path)
    assert store.get_run(failed).status == "FAILED"
    environment = next((tmp_path / "mlruns/artifacts/ends").rglob("environment.json"))
    written = environment.stat().st_mtime_ns

    outcome = train_one(plan, store)
    assert (outcome.run_id, outcome.status) == (failed, "FINISHED")
    (run,) = store.find_runs("ends")
    assert run.status == "FINISHED"
    assert "seglab.error" not in run.tags
    assert run.metrics["val/dice"] == whole.metrics["val/dice"]
    assert steps(store, failed) == steps(store, whole.run_id)
    assert (tmp_path / "mlruns/artifacts/ends" / failed / "artifacts/gallery/index.html").is_file()
    assert environment.stat().st_mtime_ns == written, "what was known at the start is kept"
    assert not list((tmp_path / "mlruns/state").glob("*"))


def test_weights_without_a_checkpoint_are_no_start_and_do_not_stay(
    small_config: Build, store: Store, mount: Mount
) -> None:
    state = mount(store.folder / "state", 160 * KB)  # the weights alone fit
    plan = Plan(small_config(name="half"), "half")
    with pytest.raises(UserError, match=rf"{LAST}: the checkpoint cannot be written"):
        train_one(plan, store)
    (failed,) = store.find_runs("half")
    assert failed.status == "FAILED"
    assert not list(state.glob("*"))
    enlarge(state)
    outcome = train_one(plan, store)
    assert sorted(run.status for run in store.find_runs("half")) == ["FAILED", "FINISHED"]
    assert outcome.metrics["val/dice"] == whole_dice(small_config, store)
    assert not list(state.glob("*"))


def whole_dice(small_config: Build, store: Store) -> float:
    """Dice of the same run undisturbed."""
    return train_one(Plan(small_config(name="whole"), "whole"), store).metrics["val/dice"]


def test_a_run_killed_between_its_weights_and_its_checkpoint_begins_again(
    small_config: Build, store: Store
) -> None:
    plan = Plan(small_config(name="cut"), "cut")
    run = open_run(plan, store, open_data(plan.config))
    next(run.epochs())
    (run.log.state / LAST).rename(run.log.state / f".{LAST}.4711")  # half written
    run.log._lock.release()  # as its process's death does
    outcome = train_one(plan, store)
    (found,) = store.find_runs("cut")
    assert (found.run_id, found.status) == (run.log.run_id, "FINISHED")
    assert not run.log.state.exists()
    assert outcome.metrics["val/dice"] == whole_dice(small_config, store)
    assert steps(store, found.run_id)["val/dice"] == [1, 2, 3]


def test_a_run_whose_end_finds_no_space_goes_on(
    small_config: Build, store: Store, tmp_path: Path, mount: Mount
) -> None:
    disk = mount(tmp_path / "disk", 8192 * KB)
    shutil.copytree(store.folder, disk / "mlruns")
    store = open_store(disk / "mlruns")
    plan = Plan(small_config(name="full"), "full")
    run = open_run(plan, store, open_data(plan.config))
    next(run.epochs())
    fill_up(disk / "filler")
    with pytest.raises(UserError, match=r"No space left|disk is full"):
        run.__exit__(RuntimeError, RuntimeError("anything"), None)
    assert store.get_run(run.log.run_id).status == "RUNNING"
    (disk / "filler").unlink()
    outcome = train_one(plan, store)
    (found,) = store.find_runs("full")
    assert (found.run_id, found.status) == (run.log.run_id, "FINISHED")
    assert outcome.metrics["val/dice"] == whole_dice(small_config, store)
    assert not list((disk / "mlruns/state").glob("*"))


def test_a_run_that_diverged_is_over(small_config: Build, store: Store, tmp_path: Path) -> None:
    plan = Plan(small_config(name="diverged"), "diverged")
    run = open_run(plan, store, open_data(plan.config))
    next(run.epochs())
    error = TrainingDiverged("loss is nan at epoch 2")
    run.__exit__(type(error), error, None)
    assert store.get_run(run.log.run_id).status == "FAILED"
    assert not list((tmp_path / "mlruns/state").glob("*"))


@pytest.mark.parametrize(("error", "begun"), [(StoreUnavailable, 1), (UserError, 1), (RunInUse, 2)])
def test_only_a_run_that_is_in_use_is_passed_over(
    small_config: Build, store: Store, monkeypatch: pytest.MonkeyPatch, error: Any, begun: int
) -> None:
    """A store that is away or full begins no other run while a checkpoint is there."""
    plan = Plan(small_config(name="again"), "again")
    run = open_run(plan, store, open_data(plan.config))
    next(run.epochs())
    run.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    def refuses(*_: object) -> None:
        raise error("refused")

    monkeypatch.setattr(experiment, "resume_run", refuses)
    with suppress(error):
        open_run(plan, store, open_data(plan.config)).__exit__(None, None, None)
    assert len(store.find_runs("again")) == begun


BROKEN = {
    "explain_all": "failures are not explained",
    "learning_curves": "curves.png is not drawn",
    "write_overlays": "overlays are not drawn",
    "write_gallery": "the gallery is not written",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_drawn_or_explained_is_a_warning(
    small_config: Build,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("cannot open font")

    monkeypatch.setattr(outputs, broken, fails)
    plan = Plan(small_config(name="drawn", train={"epochs": 1}), "drawn")
    outcome = train_one(plan, store)
    assert outcome.status == store.get_run(outcome.run_id).status == "FINISHED"
    assert f"warning: {BROKEN[broken]}: RuntimeError: cannot open font" in capsys.readouterr().err
    files = set(list_artifacts(store, outcome.run_id))
    assert {"patients_val.csv", f"checkpoints/{WEIGHTS}"} <= files
    assert ("curves.png" in files) == (broken != "learning_curves")
    has_gallery = broken not in {"explain_all", "write_gallery"}
    assert ("gallery/index.html" in files) == has_gallery


def test_a_dice_of_zero_says_why(
    small_config: Build, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(name="zero", train={"epochs": 1}, evaluation={"threshold": 0.999999})
    outcome = train_one(Plan(config, "zero"), store)
    assert outcome.metrics["val/dice"] == 0
    told = capsys.readouterr().err
    assert "val/dice is 0: no pixel reached the threshold of 0.999999; the highest" in told


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_scores_logged_are_of_the_weights_kept(
    small_config: Build, store: Store, keep: str
) -> None:
    plan = Plan(small_config(name=keep, train={"epochs": 4, "keep": keep}), keep)
    outcome = train_one(plan, store)
    run = store.get_run(outcome.run_id)
    epoch = int(run.metrics["val/kept_epoch"])
    dices = dict(store.metric_history(run.run_id, "val/dice"))
    assert epoch == (4 if keep == "last" else run.metrics["val/best_epoch"])
    assert outcome.metrics["val/dice"] == run.metrics["val/dice"] == dices[epoch]
    own_step = [5] if epoch < 4 else []
    assert list(dices) == [1, 2, 3, 4, *own_step], "no curve has a point that is no epoch's"


@pytest.mark.parametrize("count", range(1, 13))
def test_every_sheet_has_somebody_to_show(count: int) -> None:
    scores = []
    for found in range(count):
        truth = np.zeros((1, 4, 20), dtype=bool)
        truth[0, 0] = True
        predicted = truth.copy()
        predicted[0, 0, found:] = False
        spacing = (1.0, 1.0, 1.0)
        scores.append(score_patient(f"P{found}", predicted, truth, spacing, True, surface=False))
    chosen = best_median_worst(scores, outputs.fair_share(count))
    shown = [name for names in chosen.values() for name in names]
    assert len(shown) == len(set(shown))
    assert sum(bool(names) for names in chosen.values()) == min(count, 3)

"""Promotion on phantoms: the choice is validation's, the test opens once, the champion serves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.cache import open_cache
from seglab.data.open import open_data
from seglab.evaluation.metrics import mean
from seglab.evaluation.scores import read_csv
from seglab.learning.operating_point import PLAIN, OperatingPoint
from seglab.studies import promotion as room
from seglab.studies.candidates import Candidates
from seglab.studies.experiment import Plan, train_one
from seglab.studies.frozen import predict_patient
from seglab.studies.promotion import freeze, promote
from seglab.studies.report.model_card import update_model_cards
from seglab.studies.report.record import read_record
from seglab.studies.report.sections import external_rows
from seglab.studies.resolve import TrainedRun, load_trained, open_model
from seglab.tracking.artifacts import download
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

SPLIT = {"fractions": [0.4, 0.3, 0.3]}
Build = Callable[..., RunConfig]


pytestmark = pytest.mark.usefixtures("this_store")


@pytest.fixture
def build(small_config: Build) -> Build:
    def with_test_part(**overrides: object) -> RunConfig:
        return small_config(**({"split": SPLIT, "train": {"epochs": 2}} | overrides))

    return with_test_part


def trained(store: Store, config: RunConfig, arm: str = "a", **plan: Any) -> str:
    """Run id of a finished run of this config; trained once in this module."""
    return train_one(Plan(config, arm, **plan), store).run_id


def artifact(store: Store, run_id: str, name: str, folder: Path) -> Path:
    download(store, run_id, folder, name)
    return folder / name


def test_the_story_of_one_test(build: Build, store: Store, tmp_path: Path) -> None:
    """The first opening confirms, a second is refused, a reopened one is marked."""
    runs = [trained(store, build(seed=seed)) for seed in (0, 1)]
    dice = {run: store.get_run(run).metrics["val/dice"] for run in runs}
    best, other = sorted(runs, key=lambda run: -dice[run])
    first = promote(store, "small", baseline=other)
    report = first.to_json()
    assert report["promoted_run_id"] == best
    assert report["confirmatory"] is True
    low, high = report["test/dice_ci"]
    assert low <= report["test/dice"] <= high

    record = store.get_run(first.run_id)
    assert record.status == "FINISHED"
    assert record.tags["seglab.kind"] == "promotion"
    assert record.tags["seglab.confirmatory"] == "true"
    assert record.tags["seglab.promoted_run_id"] == best
    assert record.tags["seglab.split_hash"] == store.get_run(best).tags["seglab.split_hash"]
    assert json.loads(record.tags["seglab.operating_point"]) == first.point.to_dict()
    expected = {"dice", "iou", "dice_slice_tumour", "dice_slice_empty1", "dice_pooled"}
    assert {f"test/{name}" for name in expected} <= record.metrics.keys()
    assert "test_vs_baseline/diff" in record.metrics
    answer = f"Sealed test, confirmatory: Dice {record.metrics['test/dice']:.3f}"
    page = artifact(store, first.run_id, "report/report.html", tmp_path).read_text()
    assert answer in record.tags["mlflow.note.content"]
    assert answer in page

    split = json.loads(artifact(store, first.run_id, "split.json", tmp_path).read_text())
    scores = read_csv(artifact(store, first.run_id, "patients_test.csv", tmp_path))
    assert sorted(score.patient_id for score in scores) == sorted(split["test"])
    known = [score.dice for score in scores if math.isfinite(score.dice)]
    assert record.metrics["test/dice"] == pytest.approx(np.mean(known))

    page = artifact(store, first.run_id, "gallery/index.html", tmp_path).read_text()
    assert all(score.patient_id in page for score in scores)
    assert '<p class="notice">synthetic data: phantoms, not patients</p>' in page
    told: list[Candidates] = []
    with pytest.raises(UserError, match=first.run_id):
        promote(store, other, tell=told.append)
    assert not told
    with pytest.raises(UserError, match="reason"):
        promote(store, other, reopen="  ")
    again = promote(store, other, reopen="the baseline was asked for")
    tags = store.get_run(again.run_id).tags
    assert tags["seglab.confirmatory"] == "false"
    assert tags["seglab.reopen_reason"] == "the baseline was asked for"
    assert again.to_json()["confirmatory"] is False
    assert again.registered.tags["seglab.confirmatory"] == "false"
    assert again.registered.tags["seglab.synthetic"] == "true"
    version = store.client.get_model_version_by_alias("small", "champion")
    folder = tmp_path / "again"
    check_card(artifact(store, again.run_id, "model_card.md", folder), version.description)
    assert f"Dice {again.to_json()['test/dice']:.3f}" in version.description
    with pytest.raises(UserError, match="reopen"):
        promote(store, best)

    check_champion(build, store, again.run_id)
    results = artifact(store, again.run_id, "test_results.json", folder).read_text()
    point = again.point.to_dict()
    moved = {**point, "threshold": 0.05}
    for dice, place, members, at in (
        (0.111, "site", None, point),
        (0.222, "site", None, point),
        (0.333, "elsewhere", f"{other},{best}", point),
        (0.444, "elsewhere", None, moved),
    ):
        own = {"seglab.kind": "evaluation", "seglab.evaluated_run_id": other}
        own |= {"seglab.ensemble": members, "seglab.operating_point": json.dumps(at)}
        with start_run(store, "small", "there", own) as evaluation:
            evaluation.params({"evaluation.run_id": other, "evaluation.set": place})
            found = json.loads(results)
            found["frozen"]["dice"]["value"] = dice
            evaluation.json(found, "external_results.json")
            evaluation.metrics({"external/dice": dice}, step=0)
    update_model_cards(store, store.get_run(other))
    version = store.client.get_model_version_by_alias("small", "champion")
    assert "external: site" in version.description
    assert "0.222" in version.description
    for text in ("0.111", "elsewhere"):
        assert text not in version.description
    tested = {row[2][:10]: row[-1] for row in external_rows(read_record(store, "small"))}
    assert tested["Dice 0.222"].startswith(f"Dice {again.to_json()['test/dice']:.3f}")
    assert tested["Dice 0.333"] == tested["Dice 0.444"] == "–"


def check_card(path: Path, description: str) -> None:
    """The card is complete, model hubs read it, and the registry shows it."""
    text = path.read_text(encoding="utf-8")
    told = ("Synthetic data", "Not a medical device", "small@champion", "threshold", "licence")
    parts = ("How to use", "Figures", "Data and split", "Recipe", "Failures", "Limits")
    for word in (*told, *(f"## {part}" for part in parts), "unet: base", "not confirmatory"):
        assert word in text
    body = text.partition("\n---\n\n")[2]
    assert description == body or body.startswith(description.rpartition("\n\n…")[0])
    assert len(description) <= 5000, "what MLflow stores"
    card = ModelCard(text)
    assert {one.metric_type for one in card.data.eval_results} == {"dice", "iou"}
    assert (card.data.license, card.data.model_name) == ("mit", "small")
    assert "None" not in text
    assert "nan" not in text.split()


def check_champion(build: Build, store: Store, run_id: str) -> None:
    """MLflow's way, our way and the promotion itself give the same masks."""
    import mlflow.pyfunc

    from seglab.data.labels import target_mask
    from seglab.data.sources.base import open_data_source

    config = build()
    source = open_data_source(config.data)
    served = mlflow.pyfunc.load_model("models:/small@champion")
    assert served.metadata.signature is not None
    about = served.metadata.metadata
    assert (about["modalities"], about["axes"][:3]) == (["flair"], "SLP")
    assert "not a medical device" in about["use"]
    assert about["licence"].startswith("MIT")
    assert served.predict(served.input_example).shape == served.input_example.shape
    ours = open_model("small@champion", lambda: store)
    data = open_data(config)
    counted = store.get_run(run_id)
    total = 0.0
    for patient in source.patients():
        if patient.patient_id in data.split.test:
            volume = source.read(patient, config.data.modalities)
            mask, truth = served.predict(volume.images[0]), target_mask(volume.labels, "whole")
            assert np.array_equal(mask, ours.predict(volume.images))
            assert np.array_equal(mask, ours.segment(volume).mask)
            hits = np.count_nonzero(mask & truth)
            total += 2 * hits / (np.count_nonzero(mask) + np.count_nonzero(truth))
    assert total / len(data.split.test) == pytest.approx(counted.metrics["test/dice"])


def test_a_run_that_did_not_finish_is_not_promoted(build: Build, store: Store) -> None:
    with start_run(store, "broken", "r", {"seglab.kind": "train"}) as run:
        run.params({"name": "broken"})
        run.fail("diverged")
    for name in ("broken", run.run_id):
        with pytest.raises(UserError, match="FAILED"):
            promote(store, name)


def test_other_data_than_the_run_was_trained_on_is_refused(
    build: Build, store: Store, tmp_path: Path
) -> None:
    from seglab.data.phantom.write import write_phantom

    other = tmp_path / "other"
    write_phantom(other, patients=9, size=64, slices=12, seed=4, workers=1)
    run_id = trained(store, build(seed=0))
    tag = store.get_run(run_id).tags["seglab.data_hash"]
    with pytest.raises(UserError, match=tag):
        promote(store, run_id, overrides=[f"data.root={other}"])
    with pytest.raises(UserError, match=r"model\.base_channels"):
        promote(store, run_id, overrides=["model.base_channels=8"])


def test_no_test_part_is_nothing_to_promote_on(build: Build, store: Store) -> None:
    run_id = trained(store, build(name="no-test", split={"fractions": [0.7, 0.3, 0.0]}))
    with pytest.raises(UserError, match="no test share"):
        promote(store, run_id)


def test_a_test_part_without_tumour_stays_sealed(
    build: Build, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = trained(store, build(seed=0, name="healthy"))

    def without_tumour(*arguments: Any) -> Any:
        found = load_trained(*arguments)
        for patient in found.data.cache.patients:
            if patient.patient_id in found.data.split.test:
                patient.tumour_px[:] = 0
        return found

    monkeypatch.setattr(room, "load_trained", without_tumour)
    with pytest.raises(UserError, match="none of the 3 test patients has tumour"):
        promote(store, run_id)
    assert not store.find_runs("healthy", {"seglab.kind": "promotion"})


STEPS = ("_log_frozen", "_evaluate", "log_pictures", "register_champion")
"""Before the test is opened, and three times after it."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    """Let a promotion do a step, and die."""
    real = getattr(room, step)

    def dies(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise error

    monkeypatch.setattr(room, step, dies)


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in which no test was opened."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return open_store(tmp_path / "mlruns")


@pytest.mark.slow
def test_it_dies_at_every_step_and_comes_to_one_end(
    own_store: Store, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is still the first look at the test."""
    store = own_store
    run_id = trained(store, build(name="begun", train={"epochs": 1}))
    for step in STEPS:
        with monkeypatch.context() as patch:
            stop_at(patch, step, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                promote(store, run_id)
    done = promote(store, run_id)
    (run,) = store.find_runs("begun", {"seglab.kind": "promotion"})
    assert run.run_id == done.run_id
    assert run.status == "FINISHED"
    assert "seglab.interrupted" not in run.tags
    assert done.opened.confirmatory
    assert run.tags["seglab.confirmatory"] == "true"
    assert len(store.metric_history(run.run_id, "test/dice")) == 1
    assert len(store.client.search_model_versions("name='begun'")) == 1
    with pytest.raises(UserError, match=f"opened .* by promotion {run.run_id}"):
        promote(store, run_id)
    other = promote(store, run_id, reopen="to see that it repeats")
    assert other.run_id != run.run_id
    assert other.to_json()["test/dice"] == done.to_json()["test/dice"]
    assert not other.opened.confirmatory


@pytest.mark.slow
def test_changed_code_or_another_question_is_a_second_look(
    own_store: Store, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = own_store
    run_id = trained(store, build(name="changed", train={"epochs": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(room, "code_hash", lambda: "before")
        stop_at(patch, "_evaluate", RuntimeError("a bug in the evaluation"))
        with pytest.raises(RuntimeError):
            promote(store, run_id, reopen="a reason")
    (run,) = store.find_runs("changed", {"seglab.kind": "promotion"})
    assert run.status == "FAILED"
    with pytest.raises(UserError, match="reopen"):
        promote(store, run_id)
    assert promote(store, run_id, reopen="a reason").run_id != run.run_id


FROZEN_SPLITS = 5
SLACK = 0.005


def dice_on_test(trained: TrainedRun, point: OperatingPoint) -> float:
    bundle, data = trained.bundle(point), trained.data
    cache = open_cache(data.cache.path)
    cases = [predict_patient(bundle, cache, cache.by_id[name]) for name in data.split.test]
    return mean([case.score.dice for case in cases])


@pytest.mark.slow
def test_the_frozen_setting_loses_nothing_against_plain_on_the_test(
    small_config: Build, own_store: Store
) -> None:
    """Over five splits; the networks are barely trained, so that another setting can help."""
    store = own_store
    gains, points = [], set()
    for seed in range(FROZEN_SPLITS):
        split = {"seed": seed, "fractions": [0.4, 0.3, 0.3]}
        config = small_config(name=f"split {seed}", split=split, train={"epochs": 12})
        run = store.get_run(train_one(Plan(config, "a"), store).run_id)
        trained = load_trained(store, run)
        point = freeze(trained).selection.point
        points.add(point)
        gains.append(dice_on_test(trained, point) - dice_on_test(trained, PLAIN))
        print(f"split {seed}: {point}, test Dice {gains[-1]:+.4f} against plain")
    # One split in which three barely trained patients mislead does not decide.
    assert np.median(gains) >= -SLACK
    assert points != {PLAIN}, "nothing was chosen, and nothing was tried"

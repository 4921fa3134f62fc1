"""Promotion on phantoms: the choice is validation's, the test opens once, the champion serves."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from huggingface_hub import ModelCard

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.open import open_data
from seglab.evaluation.scores import from_csv
from seglab.studies import promotion as room
from seglab.studies.experiment import Plan, train_one
from seglab.studies.promotion import Promotion, promote
from seglab.studies.report.model_card import update_model_cards
from seglab.studies.report.record import read_record
from seglab.studies.report.sections import external_rows
from seglab.studies.resolve import load_trained, open_model
from seglab.tracking.artifacts import download
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

SPLIT = {"fractions": [0.4, 0.3, 0.3]}
Build = Callable[..., RunConfig]
STAGES = ("choosing", "exporting", "testing", "drawing", "registering", "writing the report")


pytestmark = pytest.mark.usefixtures("this_store")


@pytest.fixture(scope="module")
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


class Opened(NamedTuple):
    """A test that was opened twice: for the better of two runs, and for the other one."""

    best: str
    other: str
    first: Promotion
    again: Promotion
    told: str
    """On stderr by the first."""


@pytest.fixture(scope="module")
def opened(build: Build, store: Store) -> Opened:
    runs = [trained(store, build(seed=seed)) for seed in (0, 1)]
    best, other = sorted(runs, key=lambda run: -store.get_run(run).metrics["val/dice"])
    with contextlib.redirect_stderr(io.StringIO()) as told:
        first = promote(store, "small", baseline=other)
    again = promote(store, other, reopen="the baseline was asked for")
    return Opened(best, other, first, again, told.getvalue())


def test_every_stage_is_told(opened: Opened) -> None:
    at = [opened.told.find(f"\n{stage}") for stage in STAGES]
    assert -1 not in at, opened.told
    assert at == sorted(at), opened.told


def test_the_first_opening_confirms_and_says_of_which_run(opened: Opened, store: Store) -> None:
    report, record = opened.first.to_json(), store.get_run(opened.first.run_id)
    assert report["promoted_run_id"] == opened.best
    assert report["confirmatory"] is True
    low, high = report["test/dice_ci"]
    assert low <= report["test/dice"] <= high
    assert record.status == "FINISHED"
    assert record.tags["seglab.kind"] == "promotion"
    assert record.tags["seglab.confirmatory"] == "true"
    assert record.tags["seglab.promoted_run_id"] == opened.best
    split_hash = store.get_run(opened.best).tags["seglab.split_hash"]
    assert record.tags["seglab.split_hash"] == split_hash
    assert json.loads(record.tags["seglab.operating_point"]) == opened.first.point.to_dict()
    expected = {"dice", "iou", "dice_slice_tumour", "dice_slice_empty1", "dice_pooled"}
    assert {f"test/{name}" for name in expected} <= record.metrics.keys()
    assert "test_vs_baseline/diff" in record.metrics


def test_a_second_opening_needs_a_reason_and_is_marked(
    opened: Opened, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(UserError, match=opened.first.run_id):
        promote(store, opened.other)
    assert "choosing the operating point" not in capsys.readouterr().err
    with pytest.raises(UserError, match="reason"):
        promote(store, opened.other, reopen="  ")
    again = opened.again
    tags = store.get_run(again.run_id).tags
    assert tags["seglab.confirmatory"] == "false"
    assert tags["seglab.reopen_reason"] == "the baseline was asked for"
    assert again.to_json()["confirmatory"] is False
    assert again.registered.tags["seglab.confirmatory"] == "false"
    assert again.registered.tags["seglab.synthetic"] == "true"


def test_the_patients_of_the_test_are_scored_and_shown(
    opened: Opened, store: Store, tmp_path: Path
) -> None:
    run_id = opened.first.run_id
    record = store.get_run(run_id)
    split = json.loads(artifact(store, run_id, "split.json", tmp_path).read_text())
    scores = from_csv(artifact(store, run_id, "patients_test.csv", tmp_path).read_bytes(), "")
    assert sorted(score.patient_id for score in scores) == sorted(split["test"])
    known = [score.dice for score in scores if math.isfinite(score.dice)]
    assert record.metrics["test/dice"] == pytest.approx(np.mean(known))
    answer = f"Sealed test, confirmatory: Dice {record.metrics['test/dice']:.3f}"
    page = artifact(store, run_id, "report/report.html", tmp_path).read_text()
    assert answer in record.tags["mlflow.note.content"]
    assert answer in page
    page = artifact(store, run_id, "gallery/index.html", tmp_path).read_text()
    assert all(score.patient_id in page for score in scores)
    assert '<p class="notice">synthetic data: phantoms, not patients</p>' in page


def test_a_model_card_names_the_evaluations_of_this_very_model(
    opened: Opened, store: Store, tmp_path: Path
) -> None:
    other, again = opened.other, opened.again
    results = artifact(store, again.run_id, "test_results.json", tmp_path).read_text()
    point = again.point.to_dict()
    moved = {**point, "threshold": 0.05}
    for dice, place, members, at in (
        (0.111, "site", None, point),
        (0.222, "site", None, point),
        (0.333, "elsewhere", f"{other},{opened.best}", point),
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


def test_a_model_card_is_complete_and_model_hubs_read_it(
    opened: Opened, store: Store, tmp_path: Path
) -> None:
    path = artifact(store, opened.again.run_id, "model_card.md", tmp_path)
    description = store.client.get_model_version_by_alias("small", "champion").description
    assert f"Dice {opened.again.to_json()['test/dice']:.3f}" in description
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


def test_mlflow_and_we_give_the_masks_of_the_promotion(
    opened: Opened, build: Build, store: Store
) -> None:
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
    total = 0.0
    for patient in source.patients():
        if patient.patient_id in data.split.test:
            volume = source.read(patient, config.data.modalities)
            mask, truth = served.predict(volume.images[0]), target_mask(volume.labels, "whole")
            assert np.array_equal(mask, ours.predict(volume.images))
            assert np.array_equal(mask, ours.segment(volume).mask)
            hits = np.count_nonzero(mask & truth)
            total += 2 * hits / (np.count_nonzero(mask) + np.count_nonzero(truth))
    assert total / len(data.split.test) == pytest.approx(opened.again.to_json()["test/dice"])


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


@pytest.mark.slow
def test_it_dies_at_every_step_and_comes_to_one_end(
    fresh_store: Store, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is still the first look at the test."""
    store = fresh_store
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
    fresh_store: Store, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fresh_store
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

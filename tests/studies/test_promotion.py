"""Promotion on phantoms: the choice is validation's, the test opens once, the champion serves."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import mlflow.pyfunc
import numpy as np
import pytest
from huggingface_hub import ModelCard

from seglab.cli.study import describe_promotion
from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.labels import target_mask
from seglab.data.open import open_data
from seglab.data.phantom.write import write_phantom
from seglab.data.sources.base import open_data_source
from seglab.evaluation.scores import from_csv
from seglab.studies import promotion
from seglab.studies.experiment import Plan, train_one
from seglab.studies.promotion import Promotion, promote
from seglab.studies.report.model_card import model_card, update_model_cards
from seglab.studies.report.outcomes import external_rows
from seglab.studies.report.record import read_record
from seglab.studies.resolve import open_model
from seglab.tracking.artifacts import download, read_artifact
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Train = Callable[..., str]
SPLIT = {"fractions": [0.4, 0.3, 0.3]}
Build = Callable[..., RunConfig]
STAGES = ("choosing", "exporting", "testing", "drawing", "registering", "writing the report")


pytestmark = pytest.mark.usefixtures("this_store")


@pytest.fixture(scope="module")
def build(small_config: Build) -> Build:
    def with_test_part(**overrides: object) -> RunConfig:
        return small_config(**({"split": SPLIT, "train": {"epochs": 2}} | overrides))

    return with_test_part


class Opened(NamedTuple):
    """A test that was opened twice: for the better of two runs, and for the other one."""

    best: str
    other: str
    first: Promotion
    again: Promotion
    told: str
    """On stderr by the first."""


@pytest.fixture(scope="module")
def opened(build: Build, store: Store, train: Train) -> Opened:
    runs = [train(build(seed=seed)) for seed in (0, 1)]
    best, other = sorted(runs, key=lambda run: -store.get_run(run).metrics["val/dice"])
    with contextlib.redirect_stderr(io.StringIO()) as told:
        first = promote(store, "small", baseline=other)
    again = promote(store, other, reopen="the baseline was asked for")
    return Opened(best, other, first, again, told.getvalue())


def test_the_first_opening_confirms_and_tells_every_stage(opened: Opened, store: Store) -> None:
    at = [opened.told.find(f"\n{stage}") for stage in STAGES]
    assert -1 not in at, opened.told
    assert at == sorted(at), opened.told
    record, best = store.get_run(opened.first.run_id), store.get_run(opened.best)
    assert opened.first.to_json()["promoted_run_id"] == best.run_id
    assert record.tags["seglab.promoted_run_id"] == best.run_id
    assert record.tags["seglab.confirmatory"] == "true"
    assert record.tags["seglab.split_hash"] == best.tags["seglab.split_hash"]
    assert json.loads(record.tags["seglab.operating_point"]) == vars(opened.first.point)
    figures = ("dice", "iou", "dice_slice_tumour", "dice_slice_empty1", "dice_pooled")
    assert {f"test/{name}" for name in figures} <= record.metrics.keys()
    assert "test_vs_baseline/diff" in record.metrics
    unsaid = ("ci_low", "ci_high", "/p", "/p_wilcoxon")
    assert not any(name.endswith(unsaid) for name in record.metrics), "so few patients"
    assert "\nwarning: one seed only: " in describe_promotion(store, opened.first)


def test_a_second_opening_needs_a_reason(opened: Opened, store: Store, capsys: Capture) -> None:
    capsys.readouterr()
    for reason, said in ((None, opened.first.run_id), ("  ", "reason")):
        with pytest.raises(UserError, match=said):
            promote(store, opened.other, reopen=reason)
    assert "choosing the operating point" not in capsys.readouterr().err
    tags = store.get_run(opened.again.run_id).tags
    assert tags["seglab.reopen_reason"] == "the baseline was asked for"
    assert opened.again.to_json()["confirmatory"] is False
    for marked in (tags, opened.again.registered.tags):
        assert marked["seglab.confirmatory"] == "false"
        assert marked["seglab.synthetic"] == "true"


def test_the_test_patients_are_scored_and_shown(
    opened: Opened, store: Store, tmp_path: Path
) -> None:
    record = store.get_run(opened.first.run_id)
    download(store, record.run_id, tmp_path)
    split = json.loads((tmp_path / "split.json").read_text())
    scores = from_csv((tmp_path / "patients_test.csv").read_bytes(), "")
    assert sorted(score.patient_id for score in scores) == sorted(split["test"])
    known = [score.dice for score in scores if math.isfinite(score.dice)]
    assert record.metrics["test/dice"] == pytest.approx(np.mean(known))
    dice = f"{record.metrics['test/dice']:.3f}"
    answer = f"Sealed test, confirmatory: Dice {dice}"
    assert record.tags["mlflow.note.content"].startswith(answer)
    page = (tmp_path / "report/report.html").read_text()
    assert f"<span>test Dice</span> <b>{dice}</b>" in page
    assert "The test is confirmatory" in page
    page = (tmp_path / "gallery/index.html").read_text()
    assert all(score.patient_id in page for score in scores)
    assert '<p class="notice">synthetic data: phantoms, not patients</p>' in page


def test_a_card_names_the_evaluations_of_this_very_model(opened: Opened, store: Store) -> None:
    other, again = opened.other, opened.again
    results = read_artifact(store, store.get_run(again.run_id), "test_results.json")
    point = vars(again.point)
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


def test_a_model_card_is_complete_and_model_hubs_read_it(opened: Opened, store: Store) -> None:
    text = read_artifact(store, store.get_run(opened.again.run_id), "model_card.md").decode()
    description = store.client.get_model_version_by_alias("small", "champion").description
    assert f"Dice {opened.again.to_json()['test/dice']:.3f}" in description
    told = (
        "Synthetic data",
        "Not a medical device",
        "small@champion scan_flair.nii.gz",
        "threshold",
        "licence",
    )
    parts = ("How to use", "Figures", "Data and split", "Recipe", "Failures", "Limits")
    for word in (*told, *(f"## {part}" for part in parts), "unet: base", "not confirmatory"):
        assert word in text
    body = text.partition("\n---\n\n")[2]
    assert description == body or body.startswith(description.rpartition("\n\n…")[0])
    assert len(description) <= 5000, "what MLflow stores"
    card = ModelCard(text)
    assert {one.metric_type for one in card.data.eval_results} == {"dice", "iou"}
    assert (card.data.license, card.data.model_name) == ("mit", "small")
    two = replace(open_model("small@champion", lambda: store).card, modalities=("flair", "t1ce"))
    _, card_of_two = model_card(
        read_record(store, "small"), store.get_run(opened.again.run_id), two
    )
    assert "small@champion new_scans --out masks" in card_of_two
    assert "`anna_flair.nii.gz` and `anna_t1ce.nii.gz`" in card_of_two
    assert "None" not in text
    assert "False" not in text
    assert "nan" not in text.split()


def test_mlflow_and_we_give_the_same_masks(opened: Opened, build: Build, store: Store) -> None:
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


def test_a_run_that_did_not_finish_is_not_promoted(store: Store) -> None:
    with start_run(store, "broken", "r", {"seglab.kind": "train"}) as run:
        run.fail("diverged")
    for name in ("broken", run.run_id):
        with pytest.raises(UserError, match="FAILED"):
            promote(store, name)


def test_other_data_than_was_trained_on_is_refused(
    opened: Opened, store: Store, tmp_path: Path
) -> None:
    write_phantom(tmp_path / "other", patients=9, size=64, slices=12, seed=4, workers=1)
    tag = store.get_run(opened.best).tags["seglab.data_hash"]
    with pytest.raises(UserError, match=tag):
        promote(store, opened.best, overrides=[f"data.root={tmp_path / 'other'}"])
    with pytest.raises(UserError, match=r"model\.base_channels"):
        promote(store, opened.best, overrides=["model.base_channels=8"])


STEPS = ("_log_frozen", "_evaluate", "register_champion", "log_report")
"""Before the test is opened, and three times after it."""


def stop_at(monkeypatch: Patch, step: str, error: BaseException) -> None:
    """Let a promotion do a step, and die."""
    real = getattr(promotion, step)

    def dies(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise error

    monkeypatch.setattr(promotion, step, dies)


@pytest.mark.slow
def test_it_dies_at_every_step_and_ends_once(
    fresh_store: Store, build: Build, monkeypatch: Patch
) -> None:
    """It is still the first look at the test."""
    store = fresh_store
    run_id = train_one(Plan(build(name="begun", train={"epochs": 1}), "a"), store).run_id
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
def test_changed_code_is_a_second_look(
    fresh_store: Store, build: Build, monkeypatch: Patch
) -> None:
    store = fresh_store
    run_id = train_one(Plan(build(name="changed", train={"epochs": 1}), "a"), store).run_id
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "code_hash", lambda: "before")
        stop_at(patch, "_evaluate", RuntimeError("a bug in the evaluation"))
        with pytest.raises(RuntimeError):
            promote(store, run_id, reopen="a reason")
    (run,) = store.find_runs("changed", {"seglab.kind": "promotion"})
    assert run.status == "FAILED"
    with pytest.raises(UserError, match="reopen"):
        promote(store, run_id)
    assert promote(store, run_id, reopen="a reason").run_id != run.run_id

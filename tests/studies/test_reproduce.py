"""Runs trained again from the store; and one model by all its names, whose code is never run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import yaml

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.sources.base import open_source
from seglab.learning.bundle import CARD
from seglab.learning.training import WEIGHTS
from seglab.studies.candidates import find_candidates
from seglab.studies.experiment import Plan, train_one
from seglab.studies.reproduce import ENVIRONMENT, compare_results, reproduce
from seglab.studies.resolve import find_trained, load_trained, open_model
from seglab.tracking.artifacts import download
from seglab.tracking.run import start_run
from seglab.tracking.store import Store
from seglab.tracking.tags import PROMOTED_RUN
from tests.studies.bright_front import make_bundle

Build = Callable[..., RunConfig]
CHECKPOINT = f"checkpoints/{WEIGHTS}"


pytestmark = pytest.mark.usefixtures("this_store")


def trained(store: Store, config: RunConfig) -> str:
    """Run id of a finished run of this config; trained once in this module."""
    return train_one(Plan(config, "a"), store).run_id


def test_a_rerun_is_equal_to_the_bit(small_config: Build, store: Store) -> None:
    run_id = trained(store, small_config())
    found = reproduce(store, run_id)
    assert found["equal"], found["differences"]
    assert found["new_run_id"] != run_id
    assert found["new_run_id"] not in {run.run_id for run in find_candidates(store, "small").ranked}


def test_a_rerun_takes_as_many_threads_as_the_run_did(
    small_config: Build, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(name="threads", train={"epochs": 1, "threads": 0})
    with monkeypatch.context() as larger:
        larger.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
        run_id = trained(store, config)
    with monkeypatch.context() as smaller:
        smaller.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        found = reproduce(store, run_id)
    assert store.get_run(found["new_run_id"]).params["train.threads"] == "3"
    assert found["equal"], found["differences"]


@pytest.mark.parametrize(
    ("kind", "end"), [("trial", "prune"), ("train", "fail"), ("promotion", "")]
)
def test_what_cannot_repeat_is_told(store: Store, kind: str, end: str) -> None:
    log = start_run(store, "others", "r", {"seglab.kind": kind})
    {"prune": lambda: log.prune(2), "fail": lambda: log.fail("x"), "": log.finish}[end]()
    reason = {"prune": "is KILLED", "fail": "is FAILED", "": "kind promotion"}[end]
    with pytest.raises(UserError, match=f"{log.run_id}.*{reason}"):
        reproduce(store, log.run_id)


def test_what_a_rerun_gives_otherwise_is_told_by_how_much(
    small_config: Build, store: Store
) -> None:
    runs = [store.get_run(trained(store, small_config(seed=seed))) for seed in (0, 1)]
    told = compare_results(store, runs[0], runs[1])
    assert any(text.startswith("train/loss: differs by up to") for text in told)
    assert any("weights differ" in text for text in told)
    assert any("patients_val.csv" in text for text in told)
    assert compare_results(store, runs[0], runs[0]) == []


def test_a_run_and_its_files_are_the_model_that_was_validated(
    small_config: Build, store: Store, tmp_path: Path
) -> None:
    """By run id, file and folder: cropped, scaled and thresholded as in the run itself."""
    config = small_config(evaluation={"threshold": 0.4})
    run_id = trained(store, config)
    run = load_trained(store, store.get_run(run_id))
    name = run.data.split.val[0]
    expected = run.predictor.native(run.data.cache, run.data.cache.by_id[name]) > 0.4
    assert expected.any()
    source = open_source(config.data.source, config.data.root)
    patient = next(p for p in source.patients() if p.patient_id == name)
    volume = source.read(patient, config.data.modalities)
    download(store, run_id, tmp_path)
    for name in (run_id, str(tmp_path / CHECKPOINT), str(tmp_path)):
        mask = open_model(name, lambda: store).predict(volume.images)
        assert np.array_equal(mask, expected)


def test_a_run_of_an_earlier_version_kept_its_best_epoch(small_config: Build, store: Store) -> None:
    scope = {"normalise_scope": "slice"}  # what "auto" meant to those runs
    config = small_config(name="before", train={"epochs": 1}, data=scope)
    run = store.get_run(train_one(Plan(config, "a"), store).run_id)
    folder = store.folder / "artifacts" / "before" / run.run_id / "artifacts"
    (folder / CHECKPOINT).rename(folder / "checkpoints" / "best.safetensors")
    logged = yaml.safe_load((folder / "config.yaml").read_text())
    del logged["train"]["keep"], logged["train"]["compile"]
    logged["augment"] = {"name": "rotate", "limit_deg": 15, "p": 0.8}
    (folder / "config.yaml").write_text(yaml.safe_dump(logged))
    found = load_trained(store, run)
    assert found.config.train.keep == "best"
    name = found.data.split.val[0]
    mask = found.predictor.native(found.data.cache, found.data.cache.by_id[name])
    assert np.isfinite(mask).all()
    assert open_model(run.run_id, lambda: store).card.run_id == run.run_id


def test_other_versions_are_told_before_anything_is_trained(
    small_config: Build,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = trained(store, small_config(name="older"))
    download(store, run_id, tmp_path, ENVIRONMENT)
    path = tmp_path / ENVIRONMENT
    content = json.loads(path.read_text())
    content["versions"]["torch"] = "0.0.1"
    path.write_text(json.dumps(content))
    store.client.log_artifact(run_id, str(path))

    monkeypatch.setattr("seglab.studies.reproduce.train_one", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        reproduce(store, run_id)
    assert ": versions.torch: 0.0.1 before, " in capsys.readouterr().err


def test_a_registered_model_names_the_run_to_repeat(store: Store) -> None:
    """In all the ways that a prediction takes; and one that others registered names none."""
    with start_run(store, "made", "r", {"seglab.kind": "train"}) as run:
        pass
    source = f"{store.client.get_run(run.run_id).info.artifact_uri}/model"
    for name, tags in (("ours", {PROMOTED_RUN: run.run_id}), ("theirs", {})):
        store.client.create_registered_model(name)
        made = store.client.create_model_version(name, source, run.run_id, tags=tags)
        store.client.set_registered_model_alias(name, "champion", made.version)
    for form in ("{}", "{}@champion", "{}/1", "models:/{}@champion"):
        assert find_trained(store, form.format("ours")).run_id == run.run_id
        with pytest.raises(UserError, match="'theirs' was not registered by a promotion"):
            find_trained(store, form.format("theirs"))
    assert find_trained(store, run.run_id).run_id == run.run_id
    with pytest.raises(UserError, match=r"unknown run or model 'our' .did you mean 'ours'"):
        find_trained(store, "our")
    with pytest.raises(UserError, match=f"^no run '{'0' * 32}'"):
        find_trained(store, "0" * 32)


def test_a_checkpoint_names_the_run_to_repeat(
    small_config: Build, store: Store, tmp_path: Path
) -> None:
    run_id = trained(store, small_config())
    download(store, run_id, tmp_path)
    found = reproduce(store, str(tmp_path / CHECKPOINT))
    assert found["run_id"] == run_id
    assert found["equal"]
    card = (tmp_path / CHECKPOINT).with_name(CARD)
    card.write_text(json.dumps(json.loads(card.read_text()) | {"run_id": None}))
    with pytest.raises(UserError, match="names no run"):
        reproduce(store, str(tmp_path / CHECKPOINT))
    with pytest.raises(UserError, match="no such checkpoint"):
        reproduce(store, "./absent.safetensors")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["weights.pt", "best.ckpt", "best.safetensors", "model.pkl"])
def test_a_pickle_is_refused_and_its_code_not_run(tmp_path: Path, name: str) -> None:
    make_bundle().save(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    checkpoint = tmp_path / name
    checkpoint.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))

    def no_store() -> Any:
        raise AssertionError("a file needs no store")

    with pytest.raises(UserError, match="safetensors"):
        open_model(str(checkpoint), no_store)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    def no_store() -> Any:
        raise AssertionError("a path needs no store")

    for name, reason in ((str(tmp_path), "no model"), ("./absent.safetensors", "no such")):
        with pytest.raises(UserError, match=reason):
            open_model(name, no_store)
    (tmp_path / "model.json").write_text('{"format": 1, "model": "__import__"}')
    with pytest.raises(UserError, match=r"model\.json"):
        open_model(str(tmp_path), no_store)

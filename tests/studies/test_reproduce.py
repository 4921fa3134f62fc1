"""Runs trained again from the store; and one model by all its names, whose code is never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
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
from seglab.studies.reproduce import ENVIRONMENT, compare_results, reproduce
from seglab.studies.resolve import find_trained, load_trained, open_model
from seglab.tracking.artifacts import download
from seglab.tracking.connect import open_store
from seglab.tracking.run import RunLog, start_run
from seglab.tracking.store import Store
from seglab.tracking.tags import PROMOTED_RUN
from tests.studies.bright_front import make_bundle

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Train = Callable[..., str]
Build = Callable[..., RunConfig]
CHECKPOINT = f"checkpoints/{WEIGHTS}"


pytestmark = pytest.mark.usefixtures("this_store")


@pytest.fixture(scope="module")
def run_id(small_config: Build, train: Train) -> str:
    return train(small_config())


def test_a_rerun_is_equal_to_the_bit(store: Store, run_id: str) -> None:
    found = reproduce(store, run_id)
    assert found["equal"], found["differences"]
    first, rerun = (store.get_run(found[key]) for key in ("run_id", "new_run_id"))
    assert rerun.name == f"reproduction of {first.name}"
    told, *_, link = rerun.tags["mlflow.note.content"].split("\n\n")
    assert told == f"Equal to the bit to run {run_id}."
    assert rerun.run_id in link
    assert found["new_run_id"] not in {run.run_id for run in find_candidates(store, "small").ranked}


def test_a_rerun_takes_the_threads_of_the_run(
    small_config: Build, store: Store, train: Train, monkeypatch: Patch
) -> None:
    config = small_config(name="threads", train={"epochs": 1, "threads": 0})
    with monkeypatch.context() as larger:
        larger.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
        run_id = train(config)
    with monkeypatch.context() as smaller:
        smaller.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        found = reproduce(store, run_id)
    assert store.get_run(found["new_run_id"]).params["train.threads"] == "3"
    assert found["equal"], found["differences"]


@pytest.mark.parametrize(
    ("kind", "end", "reason"),
    [
        ("trial", lambda log: log.prune(2), "is KILLED"),
        ("train", lambda log: log.fail("x"), "is FAILED"),
        ("promotion", RunLog.finish, "kind promotion"),
    ],
)
def test_what_cannot_repeat_is_told(
    store: Store, kind: str, end: Callable[[RunLog], None], reason: str
) -> None:
    log = start_run(store, "others", "r", {"seglab.kind": kind})
    end(log)
    with pytest.raises(UserError, match=f"{log.run_id}.*{reason}"):
        reproduce(store, log.run_id)


def test_differences_of_a_rerun_are_told(
    small_config: Build, store: Store, run_id: str, train: Train
) -> None:
    first, other = store.get_run(run_id), store.get_run(train(small_config(seed=1)))
    told = compare_results(store, first, other)
    assert any(text.startswith("train/loss: differs by up to") for text in told)
    assert any("weights differ" in text for text in told)
    assert any("patients_val.csv" in text for text in told)
    assert compare_results(store, first, first) == []


def test_run_and_files_are_one_model(
    small_config: Build, store: Store, train: Train, tmp_path: Path
) -> None:
    """By run id, file and folder: cropped, scaled and thresholded as in the run itself."""
    config = small_config(evaluation={"threshold": 0.4})
    run_id = train(config)
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


def test_an_earlier_version_kept_the_best(small_config: Build, store: Store, train: Train) -> None:
    scope = {"normalise_scope": "slice"}  # what "auto" meant to those runs
    config = small_config(name="before", train={"epochs": 1}, data=scope)
    run = store.get_run(train(config))
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


def test_other_versions_are_told_before_training(
    store: Store, run_id: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    shutil.copytree(store.folder, tmp_path / "mlruns")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    store = open_store(tmp_path / "mlruns")
    (path,) = store.folder.rglob(f"{run_id}/artifacts/{ENVIRONMENT}")
    content = json.loads(path.read_text())
    content["versions"]["torch"] = "0.0.1"
    path.write_text(json.dumps(content))
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
    with pytest.raises(UserError, match=r"unknown run or model 'our' .did you mean 'ours'"):
        find_trained(store, "our")
    with pytest.raises(UserError, match=f"^no run '{'0' * 32}'"):
        find_trained(store, "0" * 32)


def test_a_checkpoint_names_the_run_to_repeat(store: Store, run_id: str, tmp_path: Path) -> None:
    download(store, run_id, tmp_path)
    assert find_trained(store, str(tmp_path / CHECKPOINT)).run_id == run_id
    card = (tmp_path / CHECKPOINT).with_name(CARD)
    card.write_text(json.dumps(json.loads(card.read_text()) | {"run_id": None}))
    with pytest.raises(UserError, match="names no run"):
        reproduce(store, str(tmp_path / CHECKPOINT))
    with pytest.raises(UserError, match="no such checkpoint"):
        reproduce(store, "./absent.safetensors")


def no_store() -> Store:
    raise AssertionError("a file needs no store")


@pytest.mark.parametrize("name", ["weights.pt", "best.ckpt", "best.safetensors", "model.pkl"])
def test_a_pickle_is_refused_and_its_code_not_run(tmp_path: Path, name: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    make_bundle().save(tmp_path)
    for path in (tmp_path / "weights.safetensors", checkpoint := tmp_path / name):
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="safetensors"):
        open_model(str(checkpoint), no_store)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    for name, reason in ((str(tmp_path), "no model"), ("./absent.safetensors", "no such")):
        with pytest.raises(UserError, match=reason):
            open_model(name, no_store)
    store = open_store(tmp_path / "mlruns")
    with start_run(store, "losses", "losses", {"seglab.kind": "ablation"}) as parent:
        pass
    with start_run(store, "losses", "dice · seed 0", parent_run_id=parent.run_id) as run:
        pass
    with pytest.raises(UserError, match=f"kind ablation, not a model; newest: {run.run_id}"):
        open_model(parent.run_id, lambda: store)
    (tmp_path / "model.json").write_text('{"format": 1, "model": "__import__"}')
    with pytest.raises(UserError, match=r"model\.json"):
        open_model(str(tmp_path), no_store)

"""Ensembles: one model of several runs, judged on patients that no run scored there has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import nibabel as nib
import numpy as np
import pytest
import torch

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.sources.base import open_data_source
from seglab.learning.inference import validate
from seglab.learning.operating_point import PLAIN, OperatingPoint
from seglab.models.build import Ensemble
from seglab.studies.candidates import Candidates, find_candidates
from seglab.studies.ensemble import choose_members, load_ensemble
from seglab.studies.experiment import Plan, train_one
from seglab.studies.prediction import predict
from seglab.studies.promotion import freeze, promote
from seglab.studies.resolve import load_trained, open_model, split_parts
from seglab.tracking import tags
from seglab.tracking.store import RunInfo, Store

Train = Callable[..., str]
Build = Callable[..., RunConfig]
pytestmark = pytest.mark.usefixtures("this_store")


@pytest.fixture
def build(small_config: Build) -> Build:
    def named(name: str, **overrides: object) -> RunConfig:
        base = {"split": {"fractions": [0.4, 0.3, 0.3]}, "train": {"epochs": 2}}
        return small_config(name=name, **(base | overrides))

    return named


@pytest.mark.slow
def test_seeds_become_one_model(build: Build, store: Store, train: Train, tmp_path: Path) -> None:
    """The champion's mask is that of the mean probability, in each way of using it."""
    runs = [train(build("seeds", seed=seed)) for seed in (0, 1)]
    train(build("seeds", seed=0, optim={"lr": 1e-5}), "b")
    promotion = promote(store, "seeds", ensemble="seeds")
    told, record = promotion.to_json(), store.get_run(promotion.run_id)
    assert sorted(told["ensemble"]) == sorted(runs)
    assert record.tags[tags.ENSEMBLE] == ",".join(told["ensemble"])
    assert record.tags[tags.BASELINE_RUN] == told["promoted_run_id"] == told["ensemble"][0]
    assert told["onnx"].startswith("logits within")
    assert record.metrics["cost/predict_seconds"] > 0
    assert "an ensemble averages a · seed" in told["why"]

    members = [load_trained(store, store.get_run(run)) for run in runs]
    cache, name = members[0].data.cache, members[0].data.split.val[0]
    patient, mirror = cache.by_id[name], promotion.point.mirror
    predictors = [replace(one.predictor, mirror=mirror) for one in members]
    maps = np.stack([one.native(cache, patient) for one in predictors])
    champion = open_model("seeds@champion", lambda: store)
    source = open_data_source(build("seeds").data)
    (found,) = (one for one in source.patients() if one.patient_id == name)
    volume = source.read(found, ("flair",))
    segmented = champion.segment(volume)
    np.testing.assert_allclose(segmented.probability, maps.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(segmented.disagreement, maps.std(axis=0), atol=1e-5)
    served = mlflow.pyfunc.load_model("models:/seeds@champion")
    assert np.array_equal(served.predict(volume.images[0]), segmented.mask)

    scan = nib.Nifti1Image(np.moveaxis(volume.images[0], 0, -1), np.diag([-1.0, -1, 2, 1]))
    nib.save(scan, tmp_path / "case_flair.nii.gz")
    (out,) = predict(champion, [tmp_path / "case_flair.nii.gz"], tmp_path).outputs
    percent = np.asarray(nib.load(out.disagreement).dataobj)
    mask = nib.load(out.mask)
    assert percent.shape == mask.shape
    assert percent.max() <= 50
    assert 0 <= out.doubt_ml <= np.count_nonzero(percent) * np.prod(mask.header.get_zooms()) / 1000


def test_folds_are_judged_out_of_fold(build: Build, fresh_store: Store) -> None:
    store = fresh_store  # another promotion of these patients would be a second look
    folds = {"fractions": [0.4, 0.3, 0.3], "folds": 2}
    plans = [
        Plan(build("folds", split={**folds, "fold": fold}), "a", tags={tags.FOLD: str(fold)})
        for fold in (0, 1)
    ]
    runs = [train_one(plan, store).run_id for plan in plans]
    candidates = find_candidates(store, "folds")
    chosen = choose_members(candidates, "folds")
    assert sorted(run.run_id for run in chosen) == sorted(runs)
    with pytest.raises(UserError, match="--ensemble seeds: 1 finished run of the kind"):
        choose_members(candidates, "seeds")
    trained = load_ensemble(store, chosen, "folds")
    frozen = freeze(trained)
    dices = []
    for one in trained.members:
        assert not set(one.data.split.val) & set(one.data.split.train)
        scores, _ = validate(one.predictor, one.data.cache, one.data.split.val, 0.5)
        dices += [score.dice for score in scores if np.isfinite(score.dice)]
    assert frozen.selection.dice[PLAIN] == pytest.approx(np.mean(dices))
    assert frozen.selection.patients == len(dices)
    both = {name for one in trained.members for name in one.data.split.train}
    assert both == {name for one in trained.members for name in one.data.split.val}
    promote(store, "folds", ensemble="folds")
    test = dict.fromkeys(trained.data.split.test, "test")
    parts = split_parts("folds@champion", lambda: store)
    assert parts == dict.fromkeys(both, "train") | test
    assert set(split_parts(runs[0], lambda: store).values()) == {"train", "val", "test"}


def test_what_cannot_be_averaged_is_refused(build: Build, store: Store, train: Train) -> None:
    brief = {"train": {"epochs": 1}}
    for seed, changed in enumerate(({}, {"data": {"context": 1}}, {"optim": {"lr": 1e-4}})):
        train(build("mixed", seed=seed, **brief, **changed))
    candidates = find_candidates(store, "mixed")
    assert len(choose_members(candidates, "top:3")) == 3
    for which, said in {
        "top:4": "3 finished runs of the kind",
        "top:1": "is not allowed: seeds, folds or top:K",
        "all": "is not allowed",
    }.items():
        with pytest.raises(UserError, match=said):
            choose_members(candidates, which)
    for which in ("top:3", "seeds"):
        members = choose_members(candidates, which)
        with pytest.raises(UserError, match=rf"--ensemble {which}: .* differ in .*data\.context"):
            load_ensemble(store, members, which)


def test_a_config_that_was_trained_twice_is_one_member() -> None:
    ranked = [
        RunInfo(name, name, "1", "FINISHED", 0.0, None, {tags.CONFIG_HASH: name[0]}, {}, {})
        for name in ("a1", "b1", "a2", "c1", "b2")
    ]
    candidates = Candidates(ranked, unfinished=0)
    assert [run.run_id for run in choose_members(candidates, "top:2")] == ["a1", "b1"]
    assert [run.run_id for run in choose_members(candidates, "top:3")] == ["a1", "b1", "c1"]
    with pytest.raises(UserError, match=r"--ensemble top:4: 3 finished runs"):
        choose_members(candidates, "top:4")


def test_voxels_in_doubt_are_those_that_one_sd_moves_over_the_threshold() -> None:
    probability = np.array([0.1, 0.35, 0.5, 0.9], np.float32)
    spread = np.array([0.2, 0.1, 0.05, 0.6], np.float32)
    found = OperatingPoint(threshold=0.4).in_doubt(probability, spread)
    assert found.tolist() == [False, True, False, True]


def test_the_mean_of_probabilities_also_where_they_are_certain() -> None:
    logits = torch.tensor([[-60.0, -3.0, 0.0, 2.0, 80.0], [-50.0, 3.0, 1.0, 2.0, 90.0]])
    found = Ensemble([constant(one) for one in logits])(torch.zeros(1, 1)).double()
    mean = logits.double().sigmoid().mean(0, keepdim=True)
    torch.testing.assert_close(found.sigmoid(), mean, rtol=1e-5, atol=0)


def constant(logits: torch.Tensor) -> torch.nn.Module:
    """A network of these logits, whatever the image."""
    layer = torch.nn.Linear(1, len(logits))
    layer.load_state_dict({"weight": torch.zeros(len(logits), 1), "bias": logits})
    return layer

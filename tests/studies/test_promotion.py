"""Promotion on phantoms: the choice is validation's, the test opens once, the champion serves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.cli.main import main
from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.evaluation.scores import read_csv
from seglab.studies.candidates import find_baseline, find_candidates
from seglab.studies.data import open_data
from seglab.studies.experiment import Plan, train_one
from seglab.studies.promotion import promote
from seglab.studies.resolve import load_trained, open_model
from seglab.tracking import Store, download, start_run

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

    split = json.loads(artifact(store, first.run_id, "split.json", tmp_path).read_text())
    scores = read_csv(artifact(store, first.run_id, "patients_test.csv", tmp_path))
    assert sorted(score.patient_id for score in scores) == sorted(split["test"])
    known = [score.dice for score in scores if math.isfinite(score.dice)]
    assert record.metrics["test/dice"] == pytest.approx(np.mean(known))

    page = artifact(store, first.run_id, "gallery/index.html", tmp_path).read_text()
    assert all(score.patient_id in page for score in scores)
    with pytest.raises(UserError, match=first.run_id):
        promote(store, other)
    with pytest.raises(UserError, match="reason"):
        promote(store, other, reopen="  ")
    again = promote(store, other, reopen="the baseline was asked for")
    tags = store.get_run(again.run_id).tags
    assert tags["seglab.confirmatory"] == "false"
    assert tags["seglab.reopen_reason"] == "the baseline was asked for"
    assert again.to_json()["confirmatory"] is False
    assert again.registered.tags["seglab.confirmatory"] == "false"
    with pytest.raises(UserError, match="reopen"):
        promote(store, best)

    check_champion(build, store, again.run_id)


def check_champion(build: Build, store: Store, run_id: str) -> None:
    """MLflow's way, our way and the promotion itself give the same masks."""
    import mlflow.pyfunc

    from seglab.data.labels import target_mask
    from seglab.data.sources import open_data_source

    config = build()
    source = open_data_source(config.data)
    served = mlflow.pyfunc.load_model("models:/small@champion")
    assert served.metadata.signature is not None
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
    with pytest.raises(UserError, match="did you mean 'small'"):
        promote(store, "smal")


def test_other_data_than_the_run_was_trained_on_is_refused(
    build: Build, store: Store, tmp_path: Path
) -> None:
    from seglab.data.phantom import write_phantom

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
    from seglab.studies import promotion as room

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


def test_candidates_are_ranked_and_the_baseline_is_the_same_seed(store: Store) -> None:
    parent_tags = {"seglab.kind": "ablation", "seglab.baseline": "base"}
    with start_run(store, "ranked", "parent", parent_tags) as parent:
        made = {}
        for arm, seed, dice in (("base", 0, 0.5), ("base", 1, 0.7), ("x", 0, 0.9), ("x", 1, 0.6)):
            tags = {"seglab.kind": "train", "seglab.arm": arm, "seglab.seed": str(seed)}
            with start_run(store, "ranked", f"{arm} {seed}", tags, parent.run_id) as child:
                child.metrics({"val/dice": dice}, step=1)
            made[arm, seed] = child.run_id
        with start_run(store, "ranked", "lost", {"seglab.kind": "train"}, parent.run_id) as lost:
            lost.fail("x")
    for name in ("ranked", parent.run_id):
        found = find_candidates(store, name)
        assert [run.metrics["val/dice"] for run in found.ranked] == [0.9, 0.7, 0.6, 0.5]
        assert found.best.run_id == made["x", 0]
        assert found.unfinished == 1
        assert "highest of 4" in found.reason
    base = find_baseline(store, found.best)
    assert base is not None
    assert base.run_id == made["base", 0]
    assert find_baseline(store, base) is None


def test_folds_are_ranked_by_all_patients_not_by_the_easiest(store: Store) -> None:
    """Fold 2 is easy for everybody: arm a has the highest single Dice, arm b is the better one."""
    dice = {"a": (0.60, 0.95), "b": (0.75, 0.90), "lacks": (None, 0.99)}
    with start_run(store, "folded", "parent", {"seglab.kind": "ablation"}) as parent:
        made = {}
        for arm, values in dice.items():
            for fold, value in enumerate(values):
                tags = {"seglab.kind": "train", "seglab.arm": arm, "seglab.seed": "0"}
                tags["seglab.fold"] = str(fold)
                if value is not None:
                    with start_run(store, "folded", f"{arm} {fold}", tags, parent.run_id) as child:
                        child.metrics({"val/dice": value}, step=1)
                    made[arm, fold] = child.run_id
    found = find_candidates(store, "folded")
    # Of b's folds: 0.75 against a mean of 0.675 is more than 0.90 against one of 0.947.
    order = [("b", 0), ("b", 1), ("a", 1), ("a", 0), ("lacks", 1)]
    assert [run.run_id for run in found.ranked] == [made[one] for one in order]
    assert found.out_of_fold[found.best.run_id] == pytest.approx(0.825)
    assert "0.8250 out of fold, the highest of 3" in found.reason
    assert find_candidates(store, made["a", 1]).best.run_id == made["a", 1]


def test_an_absent_champion_is_told(build: Build, store: Store) -> None:
    with pytest.raises(UserError, match="nobody"):
        open_model("nobody@champion", lambda: store)
    store.client.create_registered_model("bare")
    with pytest.raises(UserError, match="no champion; its aliases: none"):
        open_model("bare", lambda: store)


def test_commands_refuse_with_2(build: Build, store: Store, capsys: Any) -> None:
    assert main(["promote", "nowhere"]) == 2
    assert main(["reproduce", "0" * 32]) == 2
    assert main(["predict", "nobody@champion", "x.nii", "--out", "o"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)

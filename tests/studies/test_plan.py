"""A plan on record before the first run, and what a report says of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest

from seglab.core.errors import UserError
from seglab.core.study import Study
from seglab.studies.ablation import StudyOutcome, run_study
from seglab.studies.comparison import ComparedAblation, compare_ablation
from seglab.studies.plan import make_plan, plan_text, write_plan
from seglab.studies.report.sections import notices, scope
from seglab.studies.results import collect
from seglab.tracking import tags
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

Patch = pytest.MonkeyPatch
Build = Callable[..., Study]
ARMS = {"base": {}, "bce": {"loss": "bce"}}


class Kept(NamedTuple):
    """An ablation that was done as planned."""

    written: dict[str, Any]
    outcome: StudyOutcome
    result: ComparedAblation


@pytest.fixture(scope="module")
def kept(build: Build, store: Store) -> Kept:
    study = build(name="kept", arms=ARMS)
    written, outcome = write_plan(study, store), run_study(study, store)
    return Kept(written, outcome, compared(store, outcome))


def compared(store: Store, outcome: StudyOutcome) -> ComparedAblation:
    return compare_ablation(collect(store, store.get_run(str(outcome.parent_run_id))))


def test_a_plan_is_on_record_before_the_first_run(build: Build, store: Store, kept: Kept) -> None:
    text = kept.written["plan"].read_bytes()
    assert kept.written["hash"] == hashlib.sha256(text).hexdigest()
    content = json.loads(text)
    assert (content["seeds"], content["margin"], content["baseline"]) == ([0], 0.01, "base")
    assert content["arms"].keys() == ARMS.keys()
    assert content["changes"] == ARMS
    parts = [{*content[f"{part}_patients"]} for part in ("train", "validation", "test")]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 9
    (parent,) = store.find_runs("kept", {"seglab.kind": "ablation"})
    assert kept.outcome.parent_run_id == parent.run_id
    assert parent.tags["seglab.plan_hash"] == kept.written["hash"]
    assert kept.result.to_json()["plan"] == {"hash": kept.written["hash"], "deviations": []}
    told = f"Planned before the first run (plan {kept.written['hash'][:12]}), done as planned."
    assert told in scope(kept.result)
    assert "as planned" in Path(str(kept.outcome.report)).read_text()
    assert write_plan(build(name="kept", arms=ARMS), store)["hash"] == kept.written["hash"]
    with pytest.raises(UserError, match="'kept' has another plan"):
        write_plan(build(name="kept", arms=ARMS, seeds=[0, 1]), store)
    plan = write_plan(build(name="folded", arms=ARMS, split={"folds": 2}), store)["plan"]
    folded = json.loads(plan.read_text())
    assert folded["train_patients"] == folded["validation_patients"], "of both folds"
    assert "arm_data_hashes" not in folded
    arms = {"flair": {}, "t1": {"data": {"modalities": ["t1"]}}}
    inputs = json.loads(write_plan(build(name="inputs", arms=arms), store)["plan"].read_text())
    assert inputs["arm_data_hashes"]["flair"] == inputs["data_hash"]
    assert inputs["arm_data_hashes"]["t1"] != inputs["data_hash"]


def test_a_plan_that_was_changed_later_is_told(store: Store, kept: Kept, tmp_path: Path) -> None:
    shutil.copytree(store.folder, tmp_path / "mlruns")
    copy = open_store(tmp_path / "mlruns")
    (here,) = copy.folder.rglob("kept.json")
    (logged,) = copy.folder.rglob(f"{kept.outcome.parent_run_id}/artifacts/plan.json")
    changed = here.read_bytes().replace(b"0.01", b"0.05")
    here.write_bytes(changed)
    (told,) = compared(copy, kept.outcome).deviations or ()
    assert "kept.json was changed after it was made" in told
    logged.write_bytes(changed)
    here.unlink()
    told, margin = compared(copy, kept.outcome).deviations or ()
    assert f"plan.json of run {kept.outcome.parent_run_id} was changed" in told
    assert "margin" in margin


def test_an_ablation_that_is_only_compared_anew_keeps_its_duration(
    build: Build, store: Store, kept: Kept, tmp_path: Path
) -> None:
    shutil.copytree(store.folder, tmp_path / "mlruns")
    copy, parent = open_store(tmp_path / "mlruns"), str(kept.outcome.parent_run_id)
    before = copy.get_run(parent)
    run_study(build(name="kept", arms=ARMS, margin=0.02), copy)
    after = copy.get_run(parent)
    assert after.tags["seglab.margin"] == "0.02"
    assert (after.status, after.end_time) == ("FINISHED", before.end_time)


@pytest.mark.parametrize(
    ("planned", "said"),
    [
        ({"arms": {"bce": None}}, ["arm 'base' was added"]),
        ({"arms": {"bce": "another"}}, ["arm 'base' was added", "arm 'bce' has another config"]),
        ({"arms": {"base": None, "bce": None, "dice": "x"}}, ["arm 'dice' has no finished run"]),
        ({"seeds": [0, 1]}, ["seed 1 was dropped"]),
        ({"seeds": []}, ["seed 0 was added"]),
        ({"baseline": "bce"}, ["baseline is base, planned was bce"]),
        ({"margin": 0.02}, ["margin is 0.01, planned was 0.02"]),
        ({"arm_data_hashes": {"bce": "x"}}, ["arm 'bce' is of other data"]),
    ],
    ids=str,
)
def test_deviations_are_listed(kept: Kept, planned: dict[str, Any], said: list[str]) -> None:
    plan = kept.result.ablation.plan
    assert plan is not None
    content, done = {**plan.content, **planned}, plan.content["arms"]
    # An arm without a hash was planned as it was done.
    content["arms"] = {arm: given or done[arm] for arm, given in content["arms"].items()}
    ablation = replace(kept.result.ablation, plan=replace(plan, content=content))
    result = replace(kept.result, ablation=ablation)
    assert result.deviations == said
    assert f"Not as planned: {said[0]}." in notices(result)
    assert f", done with {len(said)} deviation" in scope(result)


def test_another_study_than_was_planned_deviates(build: Build, store: Store) -> None:
    write_plan(build(name="longer", arms=ARMS, seeds=[0, 1]), store)
    later = {"arms": {"base": {}}, "seeds": [0], "train": {"epochs": 2}}
    outcome = run_study(build(name="longer", **later), store)
    told, *others = compared(store, outcome).deviations or ()
    assert told.startswith("shared config hash is")
    assert others == [
        "arm 'base' has another config", "arm 'bce' has no finished run", "seed 1 was dropped"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["train", "trial", "tuning"])
def test_a_plan_after_the_first_run_is_refused(build: Build, store: Store, kind: str) -> None:
    with start_run(store, kind, "tried", {tags.KIND: kind}):
        pass
    with pytest.raises(UserError, match=f"'{kind}' has 1 runs: a plan is made before the first"):
        write_plan(build(name=kind, arms=ARMS), store)


def test_a_plan_of_one_run_is_refused(build: Build, store: Store) -> None:
    with pytest.raises(UserError, match="one run compares nothing"):
        write_plan(build(name="single"), store)


def test_what_a_comparison_could_not_show_is_told_before_it(build: Build) -> None:
    few = build(arms=ARMS, seeds=[0], split={"fractions": [0.7, 0.2, 0.1]})
    told = make_plan(few)["warnings"]
    assert told[0].startswith("one seed only: ")
    assert told[2] == (
        "a verdict needs 4 validation patients and should have 6: raise the second of "
        "split.fractions, or set split.folds=3"
    )
    redrawn = {"fractions": [0.7, 0.2, 0.1], "redraw": 1}  # as a confirmation: no remedy
    assert len(make_plan(build(arms=ARMS, seeds=[0], split=redrawn))["warnings"]) == 2
    assert make_plan(build(seeds=[0]))["warnings"] == []


def test_folds_validate_every_patient_outside_the_test(build: Build) -> None:
    plan = make_plan(build(arms=ARMS, seeds=[0], split={"folds": 2}))
    scored = plan["patients"]["train"] + plan["patients"]["validation"]
    assert (
        f"in the first fold; all {scored} outside the test are validated, once each"
        in plan_text(plan)
    )


def test_runs_that_are_finished_are_not_counted_again(
    build: Build, store: Store, kept: Kept
) -> None:
    done = make_plan(build(name="kept", arms=ARMS), store)
    assert done["estimated_seconds"] == 0
    assert "all 2 runs are finished: nothing is left to train" in plan_text(done)
    more = make_plan(build(name="kept", arms=ARMS, seeds=[0, 1]), store)
    assert "2 of 4 runs are finished; left: base (1), bce (1)" in plan_text(more)
    assert more["estimated_seconds"] == sum(arm["estimated_seconds"] for arm in more["arms"])


def test_a_network_of_several_scales_is_planned(build: Build) -> None:
    (arm,) = make_plan(build(model={"deep_supervision": True}))["arms"]
    assert arm["estimated_seconds"] > 0


def test_each_network_is_timed_once_and_gives_a_range(build: Build, monkeypatch: Patch) -> None:
    timed = Mock(side_effect=[0.5, 2.0])  # seconds an image
    monkeypatch.setattr("seglab.studies.plan._seconds_per_image", timed)
    plan = make_plan(build(arms=ARMS | {"c": {"model": {"base_channels": 8}}}, seeds=[0, 1]))
    a, b, c = (arm["estimated_seconds"] for arm in plan["arms"])
    assert timed.call_count == 2
    assert (a, c) == (b, pytest.approx(4 * a))
    assert a >= 0.5 * plan["arms"][0]["images"]
    assert plan["estimated_seconds"] == pytest.approx(2 * (a + b + c))
    assert "one run after the other, if this machine stays as busy" in plan_text(plan)
    assert plan["at_most_seconds"] == pytest.approx(2 * plan["estimated_seconds"])

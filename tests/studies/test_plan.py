"""A plan on record before the first run, and what a report says of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seglab.core.errors import UserError
from seglab.core.study import Study
from seglab.studies.ablation import run_study
from seglab.studies.comparison import ComparedAblation, compare_ablation
from seglab.studies.plan import make_plan, write_plan
from seglab.studies.report.sections import notices, scope
from seglab.studies.results import collect
from seglab.tracking import tags
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

Build = Callable[..., Study]
ARMS = {"base": {}, "bce": {"loss": "bce"}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return open_store(tmp_path_factory.mktemp("store") / "mlruns")


def test_a_network_of_several_scales_is_planned(build: Build) -> None:
    (arm,) = make_plan(build(model={"deep_supervision": True}))["arms"]
    assert arm["estimated_seconds"] > 0


def result_of(store: Store, parent_run_id: str | None) -> ComparedAblation:
    return compare_ablation(collect(store, store.get_run(str(parent_run_id))))


def planned(build: Build, store: Store, name: str, **later: Any) -> ComparedAblation:
    """Plan two arms × two seeds and train them, with something changed."""
    study = {"name": name, "arms": ARMS, "seeds": [0, 1]}
    write_plan(build(**study), store)
    return result_of(store, run_study(build(**{**study, **later}), store).parent_run_id)


@pytest.mark.slow
def test_a_plan_is_on_record_before_the_first_run_and_kept(build: Build, store: Store) -> None:
    study = build(name="kept", arms=ARMS, seeds=[0, 1])
    written = write_plan(study, store)
    text = written["plan"].read_bytes()
    assert written["hash"] == hashlib.sha256(text).hexdigest()
    content = json.loads(text)
    assert (content["seeds"], content["margin"], content["baseline"]) == ([0, 1], 0.01, "base")
    assert content["arms"].keys() == ARMS.keys()
    assert content["changes"] == ARMS
    parts = [{*content[f"{part}_patients"]} for part in ("train", "validation", "test")]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 9
    assert write_plan(study, store)["hash"] == written["hash"]
    (parent,) = store.find_runs("kept")
    assert parent.tags["seglab.plan_hash"] == written["hash"]
    outcome = run_study(study, store)
    assert outcome.parent_run_id == parent.run_id
    result = result_of(store, parent.run_id)
    assert result.to_json()["plan"] == {"hash": written["hash"], "deviations": []}
    assert f"Done as planned before the first run (plan {written['hash'][:12]})" in scope(result)
    assert "as planned" in Path(str(outcome.report)).read_text()
    with pytest.raises(UserError, match="'kept' has another plan"):
        write_plan(build(name="kept", arms=ARMS, seeds=[0]), store)

    written["plan"].write_bytes(text.replace(b"0.01", b"0.05"))
    (told,) = result_of(store, parent.run_id).deviations or ()
    assert "kept.json was changed after it was made" in told
    (artifact,) = store.folder.rglob(f"{parent.run_id}/artifacts/plan.json")
    artifact.write_bytes(text.replace(b"0.01", b"0.05"))
    written["plan"].unlink()
    told, margin = result_of(store, parent.run_id).deviations or ()
    assert f"plan.json of run {parent.run_id} was changed" in told
    assert "margin" in margin


@pytest.mark.slow
@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"arms": {**ARMS, "dice": {"loss": "dice"}}}, ["arm 'dice' was added"]),
        ({"arms": {**ARMS, "bce": {"loss": "dice"}}}, ["arm 'bce' has another config"]),
        ({"seeds": [0]}, ["seed 1 was dropped"]),
        ({"seeds": [0, 1, 2]}, ["seed 2 was added"]),
        ({"baseline": "bce"}, ["baseline is bce, planned was base"]),
        ({"margin": 0.02}, ["margin is 0.02, planned was 0.01"]),
        ({"arms": {"base": {}}}, ["arm 'bce' has no finished run"]),
    ],
    ids=str,
)
def test_every_deviation_is_listed(
    build: Build, store: Store, later: dict[str, Any], said: list[str]
) -> None:
    name = hashlib.sha256(str(later).encode()).hexdigest()[:8]
    result = planned(build, store, name, **later)
    assert result.deviations == said
    assert f"Not as planned: {said[0]}." in notices(result)
    assert f"Done with {len(said)} deviation" in scope(result)


@pytest.mark.slow
def test_another_config_deviates(build: Build, store: Store) -> None:
    result = planned(build, store, "longer", train={"epochs": 2})
    told, *others = result.deviations or ()
    assert told.startswith("shared config hash is")
    assert others == [f"arm '{arm}' has another config" for arm in ARMS]


@pytest.mark.slow
def test_a_plan_after_the_first_run_or_of_one_run_is_refused(build: Build, store: Store) -> None:
    study = build(name="late", arms=ARMS)
    run_study(study, store)
    with pytest.raises(UserError, match="'late' has 2 runs: a plan is made before the first"):
        write_plan(study, store)
    for kind in ("tuning", "trial"):
        with start_run(store, kind, "tried", {tags.KIND: kind}):
            pass
        with pytest.raises(UserError, match=f"'{kind}' has 1 runs: a plan is made before"):
            write_plan(build(name=kind, arms=ARMS), store)
    with pytest.raises(UserError, match="one run compares nothing"):
        write_plan(build(name="single"), store)
    assert result_of(store, store.find_runs("late")[-1].run_id).to_json()["plan"] is None


def test_what_a_comparison_could_not_show_is_told_before_it(build: Build) -> None:
    few = build(arms=ARMS, seeds=[0], split={"fractions": [0.7, 0.2, 0.1]})
    told = make_plan(few)["warnings"]
    assert told[0].startswith("one seed only: ")
    assert told[1].endswith("no verdict is possible; raise split.fractions or use split.folds")
    assert make_plan(build(seeds=[0]))["warnings"] == []

"""Which run is promoted, and against which: what may be ranked together and what may not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.studies.candidates import find_baseline, find_candidates, to_promote
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("this_store")


def tagged(**tags: Any) -> dict[str, str]:
    return {f"seglab.{key}": str(value) for key, value in tags.items()}


def finished(
    store: Store, experiment: str, dice: float, parent: str | None = None, **tags: Any
) -> str:
    """Run id of a finished run with this validation Dice."""
    own = tagged(**{"kind": "train", **tags})
    with start_run(store, experiment, f"{dice}", own, parent) as run:
        run.metrics({"val/dice": dice}, step=1)
    return run.run_id


def begun(store: Store, experiment: str, kind: str, **tags: str) -> str:
    """Run id of a parent."""
    return start_run(store, experiment, "parent", tagged(kind=kind, **tags)).run_id


def test_candidates_are_ranked_and_the_baseline_is_the_same_seed(store: Store) -> None:
    parent = begun(store, "ranked", "ablation", baseline="base")
    made = {
        (arm, seed): finished(store, "ranked", dice, parent, arm=arm, seed=seed)
        for arm, seed, dice in (("base", 0, 0.5), ("base", 1, 0.7), ("x", 0, 0.9), ("x", 1, 0.6))
    }
    start_run(store, "ranked", "lost", tagged(kind="train"), parent).fail("x")
    for name in ("ranked", parent):
        found = find_candidates(store, name)
        assert [run.metrics["val/dice"] for run in found.ranked] == [0.9, 0.7, 0.6, 0.5]
        assert found.best.run_id == made["x", 0]
        assert found.unfinished == 1
        assert "highest of 4" in found.reason
        assert to_promote(store, name, "another") == name
        assert found.leaderboard().startswith(f"0.9, run {made['x', 0][:8]}: val/dice 0.9000\n")
    base = find_baseline(store, found.best)
    assert base is not None
    assert base.run_id == made["base", 0]
    assert find_baseline(store, base) is None


def test_folds_are_ranked_by_all_patients_not_by_the_easiest(store: Store) -> None:
    """Fold 1 is easy for all arms: arm a has the highest single Dice, arm b is the better one."""
    parent = begun(store, "folded", "ablation")
    dice = {"a": {0: 0.60, 1: 0.95}, "b": {0: 0.75, 1: 0.90}, "lacks": {1: 0.99}}
    made = {
        (arm, fold): finished(store, "folded", value, parent, arm=arm, seed=0, fold=fold)
        for arm, values in dice.items()
        for fold, value in values.items()
    }
    found = find_candidates(store, "folded")
    # Of b's folds: 0.75 against a mean of 0.675 is more than 0.90 against one of 0.947.
    order = [("b", 0), ("b", 1), ("a", 1), ("a", 0), ("lacks", 1)]
    assert [run.run_id for run in found.ranked] == [made[one] for one in order]
    assert found.out_of_fold[found.best.run_id] == pytest.approx(0.825)
    assert "0.8250 out of fold, the highest of 2 arm and seed pairs" in found.reason
    assert find_candidates(store, made["a", 1]).best.run_id == made["a", 1]


def test_runs_of_different_splits_are_not_ranked(store: Store, capsys: Capture) -> None:
    """Each was validated on patients of its own: the easiest would win."""
    hard, easy = "1111aaaa2222", "3333bbbb4444"
    best = finished(store, "splits", 0.8, split_hash=hard)
    finished(store, "splits", 0.7, split_hash=hard)
    easiest = finished(store, "splits", 0.9, split_hash=easy)
    with pytest.raises(UserError, match=r"1111aaaa \(2 runs\), 3333bbbb \(1 run\).*name a RUN"):
        find_candidates(store, "splits")
    assert to_promote(store, "splits", best) == best
    assert main(["promote", "splits"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for run_id in (best, easiest):
        assert find_candidates(store, run_id).best.run_id == run_id


def test_folds_of_one_split_are_ranked_together_and_of_two_are_not(store: Store) -> None:
    for fold in (0, 1):
        for seed in (0, 1):
            tags = {"fold": fold, "seed": seed, "arm": "a", "split_hash": f"fold-{fold}"}
            finished(store, "folds", 0.5 + 0.1 * seed + 0.2 * fold, **tags)
    assert len(find_candidates(store, "folds").ranked) == 4
    finished(store, "folds", 0.95, fold=0, seed=2, arm="a", split_hash="other")
    with pytest.raises(UserError, match=r"fold-0 \(2 runs\), other \(1 run\)"):
        find_candidates(store, "folds")


def test_a_run_stands_for_its_siblings_where_an_ensemble_averages_them(store: Store) -> None:
    parent = begun(store, "siblings", "ablation")
    made = {
        (arm, seed, fold): finished(store, "siblings", 0.5, parent, arm=arm, seed=seed, fold=fold)
        for arm in "ab"
        for seed in (0, 1)
        for fold in (0, 1)
    }
    for which, keys in {
        "folds": ("a00", "a01"),
        "seeds": ("a00", "a10"),
        "top:2": ("a00",),
    }.items():
        found = find_candidates(store, made["a", 0, 0], which).ranked
        assert {run.run_id for run in found} == {made[a, int(s), int(f)] for a, s, f in keys}


def test_parents_of_different_splits_are_named(store: Store) -> None:
    """An ablation with folds and a search of one name are promoted one by one."""
    parents = {kind: begun(store, "both", kind) for kind in ("ablation", "sweep")}
    for fold in (0, 1):
        finished(store, "both", 0.5, parents["ablation"], fold=fold, split_hash=f"fold-{fold}")
    finished(store, "both", 0.6, parents["sweep"], split_hash="other")
    ablation, sweep = (f"parent {run_id[:8]}" for run_id in parents.values())
    with pytest.raises(UserError, match="name a parent run") as told:
        find_candidates(store, "both")
    assert {f"{ablation} (2 runs)", f"{sweep} (1 run)"} <= {
        *re.findall(r"parent \w{8} \(.*?\)", str(told.value))
    }
    assert len(find_candidates(store, parents["ablation"]).ranked) == 2


def test_what_is_no_training_run_is_not_promoted(store: Store) -> None:
    run_id = finished(store, "again", 0.5, kind="reproduction", reproduces="x")
    with pytest.raises(UserError, match="kind reproduction: only runs of kind train or trial"):
        find_candidates(store, run_id)


def test_the_baseline_of_a_search_is_its_base_config(store: Store) -> None:
    parents = [begun(store, "search", "sweep") for _ in range(2)]
    trials = [
        finished(store, "search", dice, parents[0], kind="trial", trial=number)
        for number, dice in enumerate((0.5, 0.8, 0.6))
    ]
    lost = start_run(store, "search", "trial", tagged(kind="trial", trial=0), parents[1])
    lost.fail("out of memory")
    other = finished(store, "search", 0.7, parents[1], kind="trial", trial=1)
    for name in ("search", parents[0], trials[1]):
        base = find_baseline(store, find_candidates(store, name).best)
        assert base is not None
        assert base.run_id == trials[0]
    assert find_baseline(store, store.get_run(trials[0])) is None
    assert find_baseline(store, store.get_run(other)) is None


def test_names_of_nothing_are_told_in_one_line(store: Store, capsys: Any) -> None:
    finished(store, "small", 0.5)
    store.client.create_registered_model("bare")
    for given, told in (
        (["promote", "smal"], "unknown experiment or run 'smal' (did you mean 'small'?)"),
        (["artifacts", "small", "--out", "o"], "'small' is an experiment, not a run or model"),
        (["predict", "bare@champion", "x.nii", "--out", "o"], "no champion; its aliases: none"),
    ):
        assert main(given) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert told in line

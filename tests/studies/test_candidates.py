"""Which run is promoted, and against which: what may be ranked together and what may not."""

from __future__ import annotations

from typing import Any

import pytest

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.studies.candidates import find_baseline, find_candidates
from seglab.studies.report.record import read_record
from seglab.tracking import Store, start_run

pytestmark = pytest.mark.usefixtures("this_store")


def finished(
    store: Store, experiment: str, dice: float, parent: str | None = None, **tags: Any
) -> str:
    """Run id of a finished run with this validation Dice."""
    all_tags = {"seglab.kind": "train"} | {f"seglab.{key}": str(tags[key]) for key in tags}
    with start_run(store, experiment, f"{dice}", all_tags, parent) as run:
        run.params({"name": experiment})
        run.metrics({"val/dice": dice}, step=1)
    return run.run_id


def test_runs_of_different_splits_are_not_ranked_together(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each was validated on patients of its own: the easiest would win."""
    hard, easy = "1111aaaa2222", "3333bbbb4444"
    best = finished(store, "splits", 0.8, split_hash=hard)
    finished(store, "splits", 0.7, split_hash=hard)
    lucky = finished(store, "splits", 0.9, split_hash=easy)
    with pytest.raises(UserError, match=r"1111aaaa \(2 runs\), 3333bbbb \(1 run\).*name a RUN"):
        find_candidates(store, "splits")
    assert main(["promote", "splits"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for run_id in (best, lucky):
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


def test_the_report_names_the_run_that_a_promotion_would_take(store: Store) -> None:
    """Under folds not the one of the highest Dice, which has the easiest patients."""
    for arm, values in {"a": (0.60, 0.95), "b": (0.75, 0.90)}.items():
        for fold, dice in enumerate(values):
            finished(store, "reported", dice, fold=fold, seed=0, arm=arm, split_hash=fold)
    best = read_record(store, "reported").best
    assert best is not None
    assert best.tags["seglab.arm"] == "b"
    assert best.run_id == find_candidates(store, "reported").best.run_id


def test_what_is_no_training_run_is_not_promoted(store: Store) -> None:
    run_id = finished(store, "again", 0.5, kind="reproduction", reproduces="x")
    with pytest.raises(UserError, match="kind reproduction: only runs of kind train or trial"):
        find_candidates(store, run_id)


def test_the_baseline_of_a_search_is_its_base_config(store: Store) -> None:
    parents = [start_run(store, "search", "sweep", {"seglab.kind": "sweep"}) for _ in range(2)]
    trials = [
        finished(store, "search", dice, parents[0].run_id, kind="trial", trial=number)
        for number, dice in enumerate((0.5, 0.8, 0.6))
    ]
    lost = start_run(
        store, "search", "trial", {"seglab.kind": "trial", "seglab.trial": "0"}, parents[1].run_id
    )
    lost.fail("out of memory")
    alone = finished(store, "search", 0.7, parents[1].run_id, kind="trial", trial=1)
    for name in ("search", parents[0].run_id, trials[1]):
        base = find_baseline(store, find_candidates(store, name).best)
        assert base is not None
        assert base.run_id == trials[0]
    assert find_baseline(store, store.get_run(trials[0])) is None
    assert find_baseline(store, store.get_run(alone)) is None

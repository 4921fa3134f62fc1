"""The confirmation of a search judges on patients that had no part in the choice."""

from __future__ import annotations

import pytest

from seglab.core.study import Study, resolve_study
from seglab.data.open import open_data
from seglab.tracking.store import Store
from tests.verdicts.searches import search_planted


def test_other_patients_judge_the_winner_and_the_optimism_is_told(
    study: Study, store: Store
) -> None:
    told = search_planted(study, store, 0)
    split = open_data(study.run).split
    judges = set(told["validation_patients"])
    assert len(judges) == len(split.val)
    assert judges <= set(split.train)
    assert told["redraw"] == 1
    assert told["ci_low"] < told["confirmed_mean"] < told["ci_high"]
    assert told["optimism"] == pytest.approx(told["search_gain"] - told["confirmed_gain"])
    assert told["verdict"] in told["text"]
    (sweep,) = store.find_runs("planted 0", {"seglab.kind": "sweep"})
    assert sweep.metrics["search/optimism"] == told["optimism"]
    (parent,) = store.find_runs("planted 0-confirmation", {"seglab.kind": "ablation"})
    assert parent.run_id == sweep.tags["seglab.confirmation_run_id"]
    for run in store.find_runs(parent_run_id=parent.run_id):
        assert run.params["split.redraw"] == "1"
        assert run.tags["seglab.split_hash"] != sweep.tags["seglab.split_hash"]


def test_with_folds_there_is_no_verdict(study: Study, store: Store) -> None:
    document = {**study.document, "split": {"folds": 3, "fold": 0}}
    told = search_planted(resolve_study(document), store, 1)
    assert "verdict" not in told
    assert "split.folds" in told["reason"]
    assert told["search_value"] > 0


@pytest.mark.slow
def test_configs_that_are_equal_in_truth_are_rarely_called_better(
    study: Study, store: Store
) -> None:
    found = [search_planted(study, store, number) for number in range(2, 42)]
    assert sum(one.get("verdict") == "better" for one in found) <= 2
    assert sum(one["optimism"] for one in found if one.get("optimism")) > 0

"""A study that is started twice at once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest

import seglab.studies.components  # noqa: F401
from seglab.core.study import Study
from seglab.studies.ablation import run_study
from seglab.studies.alone import alone
from seglab.tracking import Store, start_run
from seglab.tracking.messages import batch_message
from seglab.tracking.outbox import JOURNAL

Build = Callable[..., Study]


def test_a_study_is_trained_by_one_process_at_a_time(
    build: Build, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, told = build(name="alone"), StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    with ThreadPoolExecutor() as pool, alone(study, store):
        waiting = pool.submit(run_study, study, store)
        (other,) = run_study(build(name="alone", seeds=[1]), store).runs
        (beside,) = run_study(study, store, fresh=True).runs
        deadline = time.monotonic() + 30
        while "another process trains 'alone'" not in told.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not waiting.done()
        kept = keep_back(store)
    (after,) = waiting.result().runs
    assert after.reused
    assert other.run_id != beside.run_id == after.run_id
    assert store.get_run(kept).tags["late"] == "news", "sent before anything is judged unfinished"


def keep_back(store: Store) -> str:
    """Leave a run whose last message did not reach the store."""
    run = start_run(store, "outage", "run")
    message = batch_message(tags={"late": "news"})
    (run.state / JOURNAL).write_text(json.dumps(message) + "\n", encoding="utf-8")
    run._lock.release()
    return run.run_id


@pytest.mark.parametrize(
    "changes", [{"seeds": [1]}, {"train": {"epochs": 2}}, {"split": {"folds": 2}}, {"name": "x"}]
)
def test_another_study_is_not_waited_for(
    build: Build, store: Store, changes: dict[str, Any]
) -> None:
    with alone(build(), store), alone(build(**changes), store):
        pass
    folded = build(split={"folds": 2, "fold": 0})
    with alone(build(split={"folds": 2}), store), alone(folded, store):
        assert len(list((store.folder / "locks").iterdir())) == 2
    assert not list((store.folder / "locks").iterdir())

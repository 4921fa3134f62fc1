"""A promotion that died goes on where it was, and is still the first look at the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.studies import promotion as room
from seglab.studies.experiment import Plan, train_one
from seglab.studies.promotion import promote
from seglab.tracking import Store

Build = Callable[..., RunConfig]
STEPS = ("_log_frozen", "_evaluate", "log_pictures", "register_champion")
"""Before the test is opened, and three times after it."""


def trained(store: Store, small_config: Build, name: str) -> str:
    config = small_config(name=name, split={"fractions": [0.4, 0.3, 0.3]}, train={"epochs": 1})
    return train_one(Plan(config, "a"), store).run_id


def stop_at(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    """Let a promotion do a step, and die."""
    real = getattr(room, step)

    def dies(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise error

    monkeypatch.setattr(room, step, dies)


def test_it_dies_at_every_step_and_comes_to_one_end(
    store: Store, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = trained(store, small_config, "begun")
    for step in STEPS:
        with monkeypatch.context() as patch:
            stop_at(patch, step, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                promote(store, run_id)
    done = promote(store, run_id)
    (run,) = store.find_runs("begun", {"seglab.kind": "promotion"})
    assert run.run_id == done.run_id
    assert run.status == "FINISHED"
    assert "seglab.interrupted" not in run.tags
    assert done.opened.confirmatory
    assert run.tags["seglab.confirmatory"] == "true"
    assert len(store.metric_history(run.run_id, "test/dice")) == 1
    assert len(store.client.search_model_versions("name='begun'")) == 1
    with pytest.raises(UserError, match=f"opened .* by promotion {run.run_id}"):
        promote(store, run_id)
    other = promote(store, run_id, reopen="to see that it repeats")
    assert other.run_id != run.run_id
    assert other.to_json()["test/dice"] == done.to_json()["test/dice"]
    assert not other.opened.confirmatory


def test_changed_code_or_another_question_is_a_second_look(
    store: Store, small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "code_hash", lambda: "before")
    run_id = trained(store, small_config, "changed")
    # Sealed together with the test of the other experiment, whose patients are the same.
    with monkeypatch.context() as patch:
        stop_at(patch, "_evaluate", RuntimeError("a bug in the evaluation"))
        with pytest.raises(RuntimeError):
            promote(store, run_id, reopen="a reason")
    monkeypatch.undo()
    (run,) = store.find_runs("changed", {"seglab.kind": "promotion"})
    assert run.status == "FAILED"
    with pytest.raises(UserError, match="reopen"):
        promote(store, run_id)
    assert promote(store, run_id, reopen="a reason").run_id != run.run_id

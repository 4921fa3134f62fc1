"""Telling the dead run from the living, and from the one that has just ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from seglab.tracking.run import RunLog, start_run
from seglab.tracking.store import RunInfo, Store


def test_a_dead_run_is_marked_and_a_living_one_is_not(
    store: Store, log_and_die: Callable[[Store, Callable[[RunLog], object]], str]
) -> None:
    living = start_run(store, "one", "lives")
    assert store.in_use(living.run_id)
    assert not store.mark_interrupted(living.run_id, "killed")
    assert store.get_run(living.run_id).status == "RUNNING"
    dead = log_and_die(store, lambda run: run.metrics({"val/dice": 0.5}, 0))
    assert not store.in_use(dead)
    assert store.mark_interrupted(dead, "killed")
    run = store.get_run(dead)
    assert run.status == "KILLED"
    assert run.tags["seglab.interrupted"] == "killed"
    assert run.end_time is not None
    assert not store.mark_interrupted(dead, "again")


def test_a_run_that_ends_while_it_is_looked_at_keeps_its_status(store: Store) -> None:
    run = start_run(store, "one", "ends")

    class Slow(Store):
        """Takes so long to answer that the run ends between any two questions."""

        def get_run(self, run_id: str) -> RunInfo:
            found = super().get_run(run_id)
            run.finish()
            return found

        def in_use(self, run_id: str) -> bool:
            found = super().in_use(run_id)
            run.finish()
            return found

    assert not Slow(store.uri, store.folder, store.client).mark_interrupted(run.run_id, "killed")
    assert store.get_run(run.run_id).status == "FINISHED"


def test_a_run_that_has_ended_since_it_was_read_is_not_continued(store: Store) -> None:
    with start_run(store, "one", "ends") as run:
        read = replace(store.get_run(run.run_id), start_time=0)
    assert not store.may_continue(read)
    assert store.may_continue(store.get_run(run.run_id))

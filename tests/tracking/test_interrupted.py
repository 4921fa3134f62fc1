"""Telling the dead run from the living, and from the one that has just ended."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace

from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import RunInfo, Store


def test_a_dead_run_is_marked_and_a_living_one_is_not(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    ids = context.SimpleQueue()

    def start_and_wait() -> None:
        run = start_run(open_store(store.folder), "one", "killed")
        ids.put(run.run_id)
        time.sleep(60)

    process = context.Process(target=start_and_wait)
    process.start()
    run_id = ids.get()
    assert store.in_use(run_id)
    assert not store.mark_interrupted(run_id, "killed")
    assert store.get_run(run_id).status == "RUNNING"
    process.kill()
    process.join()
    assert not store.in_use(run_id)
    assert store.mark_interrupted(run_id, "killed")
    run = store.get_run(run_id)
    assert run.status == "KILLED"
    assert run.tags["seglab.interrupted"] == "killed"
    assert run.end_time is not None
    assert not store.mark_interrupted(run_id, "again")


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

"""One thing that only one run may do: several ask at once, one gets it, and it stays on record.

MLflow has no lock, but what one process writes the next to ask reads. A run first
writes that it wants the thing, then looks who else does. Alone, it takes it;
otherwise it steps back and asks again after a random while. Of two runs at least
one sees the other, so that never both take it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from seglab.core.errors import UserError
from seglab.tracking.store import RunInfo, Store

THING, STATE = "seglab.test_hash", "seglab.test_state"
WANTED, TAKEN = "wanted", "opened"
ATTEMPTS = 8
FIRST_WAIT_S = 0.2


def holders(store: Store, thing: str | None = None) -> list[RunInfo]:
    """Runs that have taken ``thing``, or anything, oldest first."""
    wanted = {} if thing is None else {THING: thing}
    runs = store.find_runs(tags={**wanted, STATE: TAKEN})
    return sorted(runs, key=lambda run: run.start_time)


def take(
    store: Store,
    run_id: str,
    thing: str,
    allow: Callable[[list[RunInfo]], None],
    wait: Callable[[float], None] = time.sleep,
) -> list[RunInfo]:
    """Take ``thing`` for a run and put it on record; returns who had it before, oldest first.

    Args:
        store: where the record is.
        run_id: the run that asks; it must be open.
        thing: name of what is taken.
        allow: called with those who had it before; raises to refuse.
        wait: sleeps so many seconds.

    Raises:
        UserError: others keep asking for it at the same time.
    """
    taken = holders(store, thing)
    if run_id in {run.run_id for run in taken}:  # by a process that died since
        before = [run for run in taken if run.run_id != run_id]
        allow(before)
        return before
    _write(store, run_id, THING, thing)
    for attempt in range(ATTEMPTS):
        _write(store, run_id, STATE, WANTED)
        others = [run for run in store.find_runs(tags={THING: thing}) if run.run_id != run_id]
        before = sorted(
            (run for run in others if run.tags.get(STATE) == TAKEN), key=lambda run: run.start_time
        )
        try:
            allow(before)
        except BaseException:
            _withdraw(store, run_id)
            raise
        if not any(_asks(store, run) for run in others):
            _write(store, run_id, STATE, TAKEN)
            return before
        _withdraw(store, run_id)
        wait(FIRST_WAIT_S * 2 ** min(attempt, 4) * random.random())
    raise UserError("another run is asking for the same at this moment: try again")


def _asks(store: Store, run: RunInfo) -> bool:
    """Whether a run still wants the thing; one whose process died does not."""
    if run.tags.get(STATE) != WANTED or run.status != "RUNNING":
        return False
    return not store.mark_interrupted(run.run_id, "its process ended")


def _write(store: Store, run_id: str, key: str, value: str) -> None:
    # Past the outbox: what is kept back for later is on no record.
    store.call(lambda: store.client.set_tag(run_id, key, value))


def _withdraw(store: Store, run_id: str) -> None:
    store.call(lambda: store.client.delete_tag(run_id, STATE))

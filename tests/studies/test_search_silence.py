"""Machines that go silent lose their trials; an outage of the database costs nobody any."""

from __future__ import annotations

import time
from pathlib import Path

from seglab.studies.search.ledger import RETRY_OF, take_ownership
from seglab.studies.search.silence import Watch
from tests.studies.ledgers import fall_silent, open_shared, states
from tests.studies.search_runs import wait_until

EVERY_S = 1


def test_a_silent_machine_loses_its_trial_to_a_copy(tmp_path: Path) -> None:
    far, near = (open_shared(tmp_path, home, heartbeat_s=EVERY_S) for home in ("far", "near"))
    assert far.claim(take_ownership(far.storage, "s").path.name, 1) is not None
    watch = Watch(near)

    def is_given_up() -> bool:
        fall_silent(near)
        watch.look()
        return states(near) == ["FAIL", "WAITING"]

    assert not is_given_up()  # it may be just after an outage
    wait_until(is_given_up, wait_s=60)
    assert near.trials[1].user_attrs[RETRY_OF] == 0
    assert near.silence(0) == "its machine went silent; trial 001 repeats it"


def test_a_machine_keeps_its_own_trials_through_an_outage(tmp_path: Path) -> None:
    ledger = open_shared(tmp_path, "here", heartbeat_s=EVERY_S)
    living, dying = take_ownership(ledger.storage, "s"), take_ownership(ledger.storage, "s")
    for owner in (living, dying):
        assert ledger.claim(owner.path.name, 1) is not None
    dying.release()
    watch = Watch(ledger)
    for _ in range(4):
        fall_silent(ledger)
        watch.look()
        assert states(ledger) == ["RUNNING"] * 2
        time.sleep(1.1 * EVERY_S)


def test_others_have_a_heartbeats_time_after_an_outage(tmp_path: Path) -> None:
    far, near = (open_shared(tmp_path, home, heartbeat_s=EVERY_S) for home in ("far", "near"))
    claim = far.claim(take_ownership(far.storage, "s").path.name, 1)
    assert claim is not None
    watch = Watch(near)
    watch.look()
    time.sleep(2.1 * EVERY_S)  # nobody could look, nobody could give a sign
    fall_silent(near)
    watch.look()
    assert states(near) == ["RUNNING"]
    far.beat(claim.trial._trial_id)
    time.sleep(1.1 * EVERY_S)
    watch.look()
    assert states(near) == ["RUNNING"]

"""Of several runs that want one thing, one gets it, and the store says which."""

from __future__ import annotations

import threading

import pytest

from seglab.core.errors import UserError
from seglab.tracking import RunInfo, Store, start_run
from seglab.tracking.claims import STATE, TAKEN, WANTED, holders, take


def refuse_second(before: list[RunInfo]) -> None:
    if before:
        raise UserError(f"taken by {before[0].run_id}")


def accept_all(before: list[RunInfo]) -> None:
    pass


def test_the_record_is_in_the_store_when_the_thing_is_handed_out(store: Store) -> None:
    with start_run(store, "e", "first") as run:
        assert take(store, run.run_id, "x", refuse_second) == []
        assert store.get_run(run.run_id).tags[STATE] == TAKEN
        assert [one.run_id for one in holders(store, "x")] == [run.run_id]
    assert holders(store, "y") == []


def test_a_second_one_is_refused_and_leaves_no_claim(store: Store) -> None:
    with start_run(store, "e", "first") as first:
        take(store, first.run_id, "x", refuse_second)
    with start_run(store, "e", "second") as second:
        with pytest.raises(UserError, match=first.run_id):
            take(store, second.run_id, "x", refuse_second)
        assert STATE not in store.get_run(second.run_id).tags
        before = take(store, second.run_id, "x", accept_all)
    assert [run.run_id for run in before] == [first.run_id]
    assert [run.run_id for run in holders(store, "x")] == [first.run_id, second.run_id]


def test_of_many_at_once_exactly_one_takes_it(store: Store) -> None:
    count = 4
    barrier = threading.Barrier(count)
    won: list[str] = []
    lost: list[str] = []

    def ask(number: int) -> None:
        with start_run(store, "e", f"run {number}") as run:
            barrier.wait()
            try:
                take(store, run.run_id, "x", refuse_second)
                won.append(run.run_id)
            except UserError:
                lost.append(run.run_id)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == count - 1
    assert [run.run_id for run in holders(store, "x")] == won


def test_another_that_asks_at_the_same_moment_makes_one_step_back(store: Store) -> None:
    with start_run(store, "e", "rival") as rival, start_run(store, "e", "run") as run:
        tags = {"seglab.test_hash": "x", STATE: WANTED}
        for key, value in tags.items():
            store.client.set_tag(rival.run_id, key, value)

        def rival_gives_up(_: float) -> None:
            assert STATE not in store.get_run(run.run_id).tags
            store.client.delete_tag(rival.run_id, STATE)

        assert take(store, run.run_id, "x", refuse_second, wait=rival_gives_up) == []


def test_a_rival_that_never_yields_is_named(store: Store) -> None:
    with start_run(store, "e", "rival") as rival, start_run(store, "e", "run") as run:
        for key, value in {"seglab.test_hash": "x", STATE: WANTED}.items():
            store.client.set_tag(rival.run_id, key, value)
        with pytest.raises(UserError, match="another run is asking"):
            take(store, run.run_id, "x", refuse_second, wait=lambda _: None)
        assert STATE not in store.get_run(run.run_id).tags


def test_the_claim_of_a_dead_process_does_not_count(store: Store) -> None:
    experiment = store.experiment("e")
    dead = store.client.create_run(experiment, tags={"seglab.test_hash": "x", STATE: WANTED})
    with start_run(store, "e", "run") as run:
        assert take(store, run.run_id, "x", refuse_second) == []
    assert store.get_run(dead.info.run_id).status == "KILLED"

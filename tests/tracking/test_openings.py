"""The record of the sealed test outlives whatever a person deletes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from seglab.core.errors import UserError
from seglab.tracking.openings import openings, record_opening
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

HASH = "0123456789abcdef"


def _promotion(store: Store) -> str:
    with start_run(store, "losses", "promotion") as run:
        return run.run_id


def test_an_opening_is_found_with_all_its_patients(store: Store) -> None:
    digests = {f"{number:08x}" for number in range(2000)}  # 18,000 characters: four tags
    run_id = _promotion(store)
    record_opening(store, HASH, run_id, digests, "a second look", 0)
    (found,) = openings(store)
    assert (found.test_hash, found.opened_by, found.patients) == (HASH, run_id, digests)


def test_deleting_the_record_itself_leaves_it_readable(store: Store) -> None:
    record_opening(store, HASH, _promotion(store), {"aa"}, None, 0)
    (record,) = [i for i, name in store.experiments().items() if name.startswith("sealed test")]
    store.client.delete_experiment(record)
    assert len(openings(store)) == 1
    record_opening(store, HASH, _promotion(store), {"aa"}, "again", 1)
    assert len(openings(store)) == 2


def test_of_promotions_at_once_one_opens_the_test(store: Store) -> None:
    ids = [_promotion(store) for _ in range(4)]

    def attempt(run_id: str) -> bool:
        before = openings(store)
        try:
            record_opening(store, HASH, run_id, {"aa"}, None, len(before))
        except UserError:
            return False
        return not before

    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(attempt, ids))
    assert first.count(True) == 1


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_record_of_an_earlier_version_counts(store: Store, is_deleted: bool) -> None:
    tags = {
        "seglab.kind": "promotion",
        "seglab.test_state": "opened",
        "seglab.test_hash": HASH,
        "seglab.test_patients": "aa bb",
    }
    with start_run(store, "losses", "promotion", tags) as run:
        pass
    if is_deleted:
        store.client.delete_run(run.run_id)
    (found,) = openings(store)
    assert (found.opened_by, found.patients) == (run.run_id, {"aa", "bb"})

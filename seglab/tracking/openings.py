"""The record of the sealed test: which patients were opened, when, by which promotion.

Each opening is an MLflow experiment: its name can be created once, also after it was deleted, and
deleting a promotion leaves it. Earlier versions kept openings as tags of promotion runs.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seglab.core.errors import UserError
from seglab.tracking import tags
from seglab.tracking.store import AlreadyThere, Store

_TAG_LENGTH = 5_000
"""Characters that MLflow keeps of a tag's value."""
_NOTE = "The record that the test patients of a split were opened: do not delete it."


@dataclass(frozen=True)
class Opening:
    """One opening of a test part."""

    test_hash: str
    opened_by: str
    """Id of the promotion run."""
    opened_at: str
    """Local time, ISO 8601."""
    patients: frozenset[str]
    """Digests of the patients."""


def openings(store: Store) -> list[Opening]:
    """Every opening on record, oldest first."""
    recorded = []
    for found in store.experiment_tags(tags.TEST_HASH):
        texts = [text for key, text in found.items() if key.startswith(f"{tags.TEST_PATIENTS}.")]
        by, at = (found.get(tag, "") for tag in (tags.TEST_OPENED_BY, tags.TEST_OPENED_AT))
        patients = frozenset(" ".join(texts).split())
        recorded.append(Opening(found[tags.TEST_HASH], by, at, patients))
    own = {opening.opened_by for opening in recorded}
    earlier = [
        Opening(
            run.tags.get(tags.TEST_HASH, ""),
            run.run_id,
            time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(run.start_time)),
            frozenset(run.tags.get(tags.TEST_PATIENTS, "").split()),
        )
        for run in store.find_runs(tags={tags.TEST_STATE: "opened"}, deleted=True)
        if run.run_id not in own
    ]
    return sorted([*recorded, *earlier], key=lambda opening: opening.opened_at)


def seen_before(found: Sequence[Opening], own: Opening) -> tuple[int, list[Opening]]:
    """How many patients of an opening others of ``found`` showed, and which others did.

    One of this very test showed all of them, also where it is on record without names.
    """
    others = [one for one in found if one.opened_by != own.opened_by]
    same = [one for one in others if one.test_hash == own.test_hash]
    shared = [one for one in others if one in same or one.patients & own.patients]
    shown = frozenset().union(*(one.patients for one in shared)) & own.patients
    return len(own.patients if same else shown), shared


def seen_text(store: Store, found: Sequence[Opening], own: Opening) -> str:
    """Say which promotions of ``found`` showed patients of a test; empty where none did."""
    seen, shared = seen_before(found, own)
    if not shared:
        return ""
    runs = {run.run_id: run for run in store.find_runs(tags={tags.KIND: "promotion"}, deleted=True)}
    names, told = store.experiments(), []
    for one in shared:
        known = one.opened_by in runs and names.get(runs[one.opened_by].experiment_id)
        of = f" of {known}" if known else ""
        told.append(f"promotion {one.opened_by[:8]}{of} ({one.opened_at[:10]})")
    count = len(own.patients)
    who = f"{seen} of the {count} test patients" if count else "the test patients"
    return f"{who} were tested before, by {', '.join(told)}"


def record_opening(
    store: Store,
    test_hash: str,
    run_id: str,
    patients: Iterable[str],
    reason: str | None,
    before: int,
) -> None:
    """Record an opening of a promotion, before anything of the test is read; atomic.

    ``patients`` are digests, ``before`` the openings of this test part that the promotion knows
    of: raises UserError where another has opened it since.
    """
    name = f"sealed test {test_hash} opening {before + 1}"
    texts = textwrap.wrap(" ".join(sorted(patients)), _TAG_LENGTH)
    content = {
        tags.TEST_HASH: test_hash,
        tags.TEST_OPENED_BY: run_id,
        tags.TEST_OPENED_AT: time.strftime("%Y-%m-%dT%H:%M:%S"),
        tags.NOTE: _NOTE,
        **({tags.REOPEN_REASON: reason} if reason else {}),
        **{f"{tags.TEST_PATIENTS}.{i}": text for i, text in enumerate(texts)},
    }
    try:
        store.create_experiment(name, tags.EXPERIMENT_TAGS | content)
    except AlreadyThere:
        raise UserError("another promotion opens the same test patients now: try again") from None

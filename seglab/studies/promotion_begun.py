"""Promotions that were begun and did not end: taken up by the same command, or told the truth of.

What a promotion opens the test for is fixed before it does: run, baseline, operating point and
code. One that died in between can only come to the result it would have come to, so that going
on with it is no second look at the test.
"""

from __future__ import annotations

from seglab.studies.seal import REASON
from seglab.tracking import RunInfo, Store, code_hash, tags


def identity_tags(
    best: RunInfo, baseline: RunInfo | None, reopen: str | None
) -> dict[str, str | None]:
    """What two promotions of the same question have in common; None where there is none."""
    return {
        tags.KIND: "promotion",
        tags.CODE_HASH: code_hash(),
        tags.PROMOTED_RUN: best.run_id,
        tags.BASELINE_RUN: None if baseline is None else baseline.run_id,
        REASON: reopen,
    }


def find_begun(
    store: Store, best: RunInfo, baseline: RunInfo | None, reopen: str | None
) -> RunInfo | None:
    """Find the newest promotion of the same question that did not end.

    Promotions of this run whose process died, and which nobody goes on with, are marked as
    interrupted on the way.
    """
    wanted = identity_tags(best, baseline, reopen)
    begun: RunInfo | None = None
    for run in store.find_runs(tags={tags.KIND: "promotion", tags.PROMOTED_RUN: best.run_id}):
        if run.status == "FINISHED" or not store.may_continue(run):
            continue
        store.mark_interrupted(run.run_id, "its process ended")
        if begun is None and all(run.tags.get(key) == value for key, value in wanted.items()):
            begun = run
    return begun

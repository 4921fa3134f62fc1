"""Send what runs could not send while their store was away."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from seglab.tracking.connect import open_store
from seglab.tracking.outbox import JOURNAL, Outbox
from seglab.tracking.store import Store, UnknownRun


@dataclass(frozen=True)
class SyncReport:
    """What became of the runs that had something to send."""

    sent: tuple[str, ...]
    """Run ids; the store now has all of them."""
    waiting: tuple[str, ...]
    """Run ids that a living process still writes, or for which the store did not answer."""
    unknown: tuple[str, ...]
    """Run ids that this store does not have: they belong to another one."""


def open_synced_store() -> Store:
    """Open the store, and send what earlier commands could not.

    A run that ended while its server was away is FINISHED there only then, and not trained
    again by the command that trained it.
    """
    store = open_store()
    for run_id in sync(store).sent:
        print(f"run {run_id}: sent what an outage had kept back", file=sys.stderr)
    return store


def sync(store: Store) -> SyncReport:
    """Send every kept message of every run that this machine knows of."""
    sent, waiting, unknown = [], [], []
    for journal in sorted((store.folder / "state").glob(f"*/{JOURNAL}")):
        run_id = journal.parent.name
        if not _is_known(store, run_id):
            unknown.append(run_id)
        elif _send_all(store, run_id):
            sent.append(run_id)
        else:
            waiting.append(run_id)
    return SyncReport(tuple(sent), tuple(waiting), tuple(unknown))


def _is_known(store: Store, run_id: str) -> bool:
    try:
        store.get_run(run_id)
    except UnknownRun:
        return False
    return True


def _send_all(store: Store, run_id: str) -> bool:
    if store.in_use(run_id):
        return False
    lock = store.claim(run_id)
    try:
        return Outbox(store.client, store.uri, run_id, store.state(run_id)).flush()
    finally:
        store.leave(lock)

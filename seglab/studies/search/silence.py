"""Machines that went silent: their trials are given up, but for nothing that an outage explains."""

from __future__ import annotations

import time

from optuna.storages import fail_stale_trials

from seglab.studies.search.ledger import Ledger


class Watch:
    """Looks once a heartbeat which machines went silent, and gives their trials up.

    While the database is away nobody can give a sign of life. Afterwards, and at the start of
    a command, which may be just afterwards, everybody has one heartbeat's time to give it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._looked: float | None = None

    def look(self) -> None:
        """Fail the trials of the silent and queue their copies; does nothing between heartbeats."""
        every = self._ledger.search.heartbeat_s
        before = self._looked
        if before is not None and time.monotonic() - before < every:
            return
        if self._ledger.storage.beats:
            with self._ledger.storage.lock("claim"):
                self._ledger.keep_alive()
                # Only now: each of these calls waits for a database that is away.
                if before is not None and time.monotonic() - before < 2 * every:
                    fail_stale_trials(self._ledger.study)
        self._looked = time.monotonic()

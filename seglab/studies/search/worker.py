"""A worker: a process that claims and does trials until there are none, or it is told to stop.

After an error that may have spoiled the process it ends, and another one takes its place.

Its parent holds its standard input: the first line is the task, a line after it asks
to stop after the epoch, and the end of the stream — the parent died, or wants it so —
stops it now.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TextIO

from seglab.core.errors import UserError
from seglab.core.study import Study, resolve_study
from seglab.studies.data import SharedData
from seglab.studies.search.identity import load_study
from seglab.studies.search.ledger import Ledger, TooManyFailures, requeue, take_ownership
from seglab.studies.search.patience import waiting_unless
from seglab.studies.search.space import Space, make_space
from seglab.studies.search.storage import StudyStorage, open_storage
from seglab.studies.search.trial import do_trial
from seglab.studies.search.workbench import Workbench
from seglab.tracking import Store, open_store
from seglab.tracking.errors import is_out_of_space, redact

STOP = "stop"
_IDLE_S = 1.0
_LAST_BEAT_S = 2.0
DONE, OUR_FAULT, USER_ERROR, SPENT, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Task:
    """What a worker is told."""

    document: Mapping[str, Any]
    """The resolved experiment file."""
    parent_run_id: str
    threads: int
    since: str
    """When the command started, ISO 8601."""

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self)) + "\n"


class Reins:
    """What the parent wants, as its pipe says."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def listen(self, stream: TextIO) -> None:
        """Follow ``stream`` in a thread, for as long as the process lives."""
        threading.Thread(target=self._follow, args=(stream,), daemon=True).start()

    def _follow(self, stream: TextIO) -> None:
        for _ in stream:
            self.stop.set()
        self.stop.set()
        _thread.interrupt_main()


def open_study_storage(study: Study, store: Store, away_s: float = 0.0) -> StudyStorage:
    """Open where the study of this search is kept; wait so long for a server that was there."""
    assert study.search is not None
    search = study.search
    folder = store.folder / "optuna"
    return open_storage(search.storage, study.name, folder, search.heartbeat_s, requeue, away_s)


def open_ledger(study: Study, space: Space, storage: StudyStorage, since: datetime) -> Ledger:
    """Open the book of a study that has begun."""
    assert study.search is not None
    return Ledger(load_study(study.name, storage), storage, space, study.search, since)


def work(task: Task, reins: Reins) -> int:
    """Do trials until as many as asked for have ended.

    Returns:
        ``DONE``, or ``SPENT`` if this process should do no more of them.

    Raises:
        UserError: nothing can be recorded, or everything fails.
        KeyboardInterrupt: told to stop now.
    """
    study = resolve_study(task.document)
    # The parent found both servers there: one that is away now is waited for.
    store = open_store()
    storage = open_study_storage(study, store, 300.0)
    ledger = open_ledger(study, make_space(study), storage, datetime.fromisoformat(task.since))
    owner = take_ownership(storage, study.name)
    workbench = Workbench(
        ledger, store, task.parent_run_id, SharedData(warn=False).of, reins.stop.is_set
    )
    try:
        with waiting_unless(reins.stop.is_set):
            return _do_trials(workbench, owner.path.name, task.threads, reins)
    finally:
        owner.remove()


def _do_trials(workbench: Workbench, owner: str, threads: int, reins: Reins) -> int:
    ledger = workbench.ledger
    while not reins.stop.is_set() and not ledger.finished():
        claim = None
        with suppress(TooManyFailures):  # unless another worker's trial ends well, the parent stops
            claim = ledger.claim(owner, threads)
        if claim is None:
            reins.stop.wait(_IDLE_S)
            continue
        with Pulse(ledger, claim.trial._trial_id):
            is_fit = do_trial(claim, workbench)
        if not is_fit:
            return SPENT
    return DONE


class Pulse:
    """Gives signs of life for a trial while it is being done."""

    def __init__(self, ledger: Ledger, trial_id: int) -> None:
        self._ledger, self._trial_id = ledger, trial_id
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        while not self._ended.wait(self._ledger.search.heartbeat_s):
            with suppress(Exception):  # a database that is away may hear the next one
                self._ledger.beat(self._trial_id)

    def __enter__(self) -> None:
        if self._ledger.storage.beats:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_LAST_BEAT_S)  # it may wait for a database that is away


def main() -> int:
    """Run as a process of its own."""
    import seglab.studies.components  # noqa: F401  (registers what a YAML may name)

    task = Task(**json.loads(sys.stdin.readline()))
    reins = Reins()
    try:
        reins.listen(sys.stdin)
        return work(task, reins)
    except UserError as error:
        print(redact(f"worker {os.getpid()}: {error}"), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if not is_out_of_space(error):
            raise
        print(redact(f"worker {os.getpid()}: {error}"), file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())

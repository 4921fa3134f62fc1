"""``sweep.py``: begins or continues a study, minds the workers, sums up."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType

from seglab.core.errors import UserError
from seglab.core.machine import available_cores
from seglab.core.study import Study
from seglab.models import build_model
from seglab.studies.data import StudyData, open_data
from seglab.studies.search.confirm import confirm
from seglab.studies.search.crew import Crew
from seglab.studies.search.identity import open_study
from seglab.studies.search.ledger import Ledger, clear_locks
from seglab.studies.search.live import Live
from seglab.studies.search.patience import StudyAway, waiting_unless
from seglab.studies.search.report import publish
from seglab.studies.search.results import SearchOutcome
from seglab.studies.search.runs import open_sweep, settle_runs
from seglab.studies.search.silence import Watch
from seglab.studies.search.space import Space, make_space, probes
from seglab.studies.search.worker import Task, open_ledger, open_study_storage
from seglab.tracking import RunLog, Store

_LOOK_S = 0.5


@dataclass
class Wishes:
    """What the person at the keyboard asked for so far."""

    interrupts: int = 0
    timed_out: bool = False
    deadline: float | None = None
    told: bool = field(default=False, repr=False)

    @property
    def stop(self) -> bool:
        """Whether no more trials are to be begun."""
        return self.interrupts > 0 or self.timed_out


def run_search(
    study: Study, store: Store, *, workers: int = 1, timeout_s: float | None = None
) -> SearchOutcome:
    """Search until ``study.search.trials`` trials are complete or pruned.

    Begins the study, or continues it. At the end its figures, ``best.yaml`` and the
    confirmation are made and logged on the sweep's run.

    Args:
        study: with a ``search`` block.
        store: of the runs.
        workers: processes on this machine.
        timeout_s: seconds after which running trials are put down, to be continued.

    Raises:
        UserError: the space, the data or the storage cannot be used; the study is of
            something else; ten trials failed in a row.
        KeyboardInterrupt: stopped by the user, all in good order.
    """
    assert study.search is not None
    space = make_space(study)
    storage = open_study_storage(study, store)
    data = open_data(study.run)
    check_data(data)
    check_networks(space, data)
    begun = open_study(study.name, space, study.search, data, storage)
    clear_locks(storage, study.name)
    ledger = open_ledger(study, space, storage, datetime.now())
    with open_sweep(study, store, begun, data, storage) as parent:
        wishes = Wishes(deadline=None if timeout_s is None else time.monotonic() + timeout_s)
        _do_trials(study, ledger, parent, workers, wishes)
        if wishes.interrupts:
            raise KeyboardInterrupt
        with storage.lock("report"):
            outcome = publish(study, ledger, parent)
            if ledger.finished():
                outcome = confirm(study, outcome, parent)
            else:
                parent.interrupt("the time was up")
    return outcome


def check_data(data: StudyData) -> None:
    """Refuse validation patients on whom nothing can be scored."""
    if not any(data.cache.by_id[name].tumour_px.any() for name in data.split.val):
        raise UserError("no validation patient has a tumour: there is no Dice to search for")


def check_networks(space: Space, data: StudyData) -> None:
    """Build each network the space can name, so that a misfit shows before hours of search.

    Raises:
        UserError: one does not take the images.
    """
    height, width = data.cache.images.shape[1:]
    seen: set[str] = set()
    for config in probes(space):
        key = f"{config.model.model_dump_json()}{config.data.context}"
        if config.data.image_size == space.base.data.image_size and key not in seen:
            seen.add(key)
            channels = 2 * config.data.context + 1
            build_model(config.model, channels, (int(height), int(width)), pretrained=False)


def _do_trials(study: Study, ledger: Ledger, parent: RunLog, workers: int, wishes: Wishes) -> None:
    """Have the trials done, and see to it that their runs tell the truth however that ends."""
    with waiting_unless(lambda: wishes.interrupts > 0):
        try:
            _mind(study, ledger, parent, workers, wishes)
        finally:
            if not isinstance(sys.exception(), StudyAway):
                settle_runs(parent.store, ledger, parent.run_id)


def _mind(study: Study, ledger: Ledger, parent: RunLog, workers: int, wishes: Wishes) -> None:
    """Keep the workers going until the study is finished or somebody wants it to stop."""
    live = Live(ledger, parent)
    if ledger.finished():
        return
    cores = available_cores()
    if workers > cores:
        print(f"warning: {workers} workers on {cores} cores slow each other down", file=sys.stderr)
    task = Task(study.document, parent.run_id, max(1, cores // workers), ledger.since.isoformat())
    crew = Crew(task, workers, visible_gpus(study))
    with _listening(wishes):
        try:
            _watch(crew, ledger, live, wishes)
        finally:
            crew.stop_now()
            live.close()


def _watch(crew: Crew, ledger: Ledger, live: Live, wishes: Wishes) -> None:
    watch = Watch(ledger)
    while crew.mend():
        _obey(crew, wishes)
        if wishes.interrupts > 1:
            return
        watch.look()
        live.look()
        ledger.check_failures()
        time.sleep(_LOOK_S)
    live.look()


def _obey(crew: Crew, wishes: Wishes) -> None:
    if wishes.deadline is not None and time.monotonic() > wishes.deadline:
        wishes.timed_out = True
    if wishes.stop and not wishes.told:
        wishes.told = True
        why = "stopping" if wishes.interrupts else "the time is up: stopping"
        print(
            f"{why} once each worker has ended its epoch; the same command continues "
            "(Ctrl-C again stops now)",
            file=sys.stderr,
        )
        crew.stop_after_epoch()


@contextmanager
def _listening(wishes: Wishes) -> Iterator[None]:
    """Count Ctrl-C and SIGTERM instead of breaking off."""

    def note(number: int, frame: FrameType | None) -> None:
        wishes.interrupts += 1

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def visible_gpus(study: Study) -> list[str]:
    """Name the GPUs to share out among workers, as CUDA_VISIBLE_DEVICES does."""
    if study.run.train.device not in {"auto", "cuda"}:
        return []
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = given.split(",") if given else [str(i) for i in range(count)]
    return names[:count]

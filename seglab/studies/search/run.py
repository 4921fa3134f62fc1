"""``sweep.py``: begins or continues a search, runs its workers, sums up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import optuna
import yaml

from seglab.core.errors import UserError
from seglab.core.study import Study, resolve_study
from seglab.models import build_model
from seglab.studies.data import SharedData, StudyData, open_data, share_patients
from seglab.studies.experiment import drop_training_state
from seglab.studies.queue import Queue, Worker, open_storage
from seglab.studies.search.confirm import confirm
from seglab.studies.search.objective import RUN, SearchWorker, check_failures
from seglab.studies.search.report import publish
from seglab.studies.search.results import SearchOutcome, SearchProgress, count_states, trial_rows
from seglab.studies.search.samplers import build_sampler
from seglab.studies.search.space import Space, make_space, probes
from seglab.studies.search.study import open_study
from seglab.studies.workers import (
    DONE,
    SPENT,
    Interrupted,
    StopRequest,
    Task,
    run_workers,
    share_of_threads,
    visible_gpus,
)
from seglab.tracking import (
    RunInUse,
    RunLog,
    Store,
    UnknownRun,
    environment_tags,
    open_store,
    resume_run,
    start_run,
    tags,
)
from seglab.tracking.errors import redact

PARENT = "parent_run_id"
_IDLE_S = 1.0


def run_search(
    study: Study, store: Store, *, workers: int = 1, timeout_s: float | None = None
) -> SearchOutcome:
    """Search until ``study.search.trials`` trials are complete or pruned.

    Begins the search, or continues it. At the end its figures, ``best.yaml`` and the
    confirmation are made and logged on the sweep's run.

    Args:
        study: with a ``search`` block.
        store: of the runs.
        workers: processes on this machine.
        timeout_s: seconds after which running trials are interrupted, to be continued.

    Raises:
        UserError: the space, the data or the storage cannot be used; the study is of
            something else; ten trials failed in a row.
        KeyboardInterrupt: stopped by the user, all in good order.
    """
    study = share_patients(study)
    assert study.search is not None
    search, space = study.search, make_space(study)
    storage = open_storage(search.storage, store.folder, search.heartbeat_s)
    data = open_data(study.run)
    check_data(data)
    check_networks(space, data)
    begun = open_study(study.name, space, search, data, storage, store.folder)
    since = datetime.now()
    stop = StopRequest(None if timeout_s is None else time.monotonic() + timeout_s)
    with open_sweep(study, store, begun, data) as parent:
        worker = Worker.register(store.folder)
        queue = Queue(begun, worker, since)
        try:
            _run_trials(study, queue, parent, workers, stop)
        finally:
            worker.close()
            reconcile_runs(parent.store, queue, parent.run_id)
        if stop.interrupts:
            raise KeyboardInterrupt
        outcome = publish(study, queue, space, parent)
        if _is_finished(study, queue):
            outcome = confirm(study, outcome, parent, workers=workers)
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
    seen: set[str] = set()
    for config in probes(space):
        key = f"{config.model.model_dump_json()}{config.input_channels}"
        if config.data.image_size == space.base.data.image_size and key not in seen:
            seen.add(key)
            build_model(config.model, config.input_channels, data.cache.shape, pretrained=False)


def _is_finished(study: Study, queue: Queue) -> bool:
    """Whether as many trials as asked for are complete or pruned."""
    counts = count_states(trial_rows(queue))
    assert study.search is not None
    if study.search.sampler == "grid":
        return not queue.is_active()
    return counts["complete"] + counts["pruned"] >= study.search.trials


def _run_trials(
    study: Study, queue: Queue, parent: RunLog, workers: int, stop: StopRequest
) -> None:
    assert study.search is not None
    progress = SearchProgress(queue, study.search.trials, parent)
    task = Task(
        work=work,
        document=study.document,
        parent_run_id=parent.run_id,
        study_name=queue.study.study_name,
        since=queue.since.isoformat(),
        threads=share_of_threads(workers, study.run.train.threads),
    )
    if workers == 1:
        with stop.listening(), suppress(Interrupted):
            found = _worker(task, study, parent.store, queue, stop)
            while not stop() and _next(found, progress.look):
                pass
    else:
        run_workers(task, workers, visible_gpus(study.run.train.device), stop, progress.look)
    progress.look()
    check_failures(queue)


def work(task: Task, stop: Callable[[], bool]) -> int:
    """Do trials in a process of its own until as many as asked for have ended.

    Returns:
        ``DONE``, or ``SPENT`` if this process should do no more of them.

    Raises:
        UserError: nothing can be recorded, or everything fails.
        KeyboardInterrupt: told to stop now.
    """

    study, store = resolve_study(task.document), open_store()
    assert study.search is not None
    storage = open_storage(study.search.storage, store.folder, study.search.heartbeat_s)
    begun = optuna.load_study(study_name=task.study_name, storage=storage)
    own = Worker.register(store.folder)
    try:
        queue = Queue(begun, own, datetime.fromisoformat(task.since))
        found = _worker(task, study, store, queue, stop)
        while not stop() and _next(found):
            if not found.is_fit:
                return SPENT
        return DONE
    finally:
        own.close()


def _worker(
    task: Task, study: Study, store: Store, queue: Queue, stop: Callable[[], bool]
) -> SearchWorker:
    assert study.search is not None
    return SearchWorker(
        queue=queue,
        space=make_space(study),
        search=study.search,
        store=store,
        parent_run_id=task.parent_run_id,
        open_data=SharedData(warn=False).of,
        stop=stop,
        threads=task.threads,
    )


def _next(worker: SearchWorker, look: Callable[[], None] = lambda: None) -> bool:
    """Do the next trial, or wait while others are at work; False where none is left."""
    words = [state.word for state in worker.queue.states().values()]
    active = words.count("active")
    ended = words.count("done") + words.count("failed")
    worker.queue.study.sampler = build_sampler(worker.search, ended, active)
    if not worker.queue.run_next(worker.keys(), worker.objective, worker.new):
        if not worker.queue.is_active():
            return False
        time.sleep(_IDLE_S)
    look()
    return True


def open_sweep(study: Study, store: Store, begun: optuna.Study, data: StudyData) -> RunLog:
    """Open the parent run of a search, shared by every machine that works on it.

    Raises:
        UserError: another process of this machine works on it, or its runs are elsewhere.
    """
    known = begun.user_attrs.get(PARENT)
    if known is not None:
        return _reopen(store, known, study.name)
    assert study.search is not None
    log = start_run(
        store,
        study.name,
        f"{study.name} · sweep",
        {
            **environment_tags(),
            tags.KIND: "sweep",
            tags.STUDY: study.name,
            tags.DATA_HASH: data.cache.data_hash,
            tags.SPLIT_HASH: data.split.hash,
        },
    )
    begun.set_user_attr(PARENT, log.run_id)
    log.text(redact(yaml.safe_dump(dict(study.document), sort_keys=False)), "sweep.yaml")
    log.dataset(data.cache.source, data.cache.data_hash, f"{data.cache.source}:{study.name}")
    space = {key: r.model_dump(exclude_defaults=True) for key, r in study.search.space.items()}
    log.params({"search.sampler": study.search.sampler, "search.space": json.dumps(space)})
    return log


def _reopen(store: Store, run_id: str, name: str) -> RunLog:
    try:
        return resume_run(store, run_id)
    except UnknownRun:
        raise UserError(
            f"search '{name}' logs to run {run_id}, which {redact(store.uri)} does not have: "
            "use the store it began with, or give this search another name: name=…"
        ) from None
    except RunInUse:
        raise UserError(f"search '{name}' is running in another process here") from None


def reconcile_runs(store: Store, queue: Queue, parent_run_id: str) -> None:
    """Give every run of the sweep that no process works on its true status.

    A run may have outlived its trial: its machine became stale, or its code changed before it
    could go on and another run took its place.
    """
    states = queue.states()
    for run in store.find_runs(parent_run_id=parent_run_id):
        state = states.get(run.tags.get(tags.TRIAL, ""))
        if state is None or state.last is None or store.in_use(run.run_id):
            continue
        own = state.last.user_attrs.get(RUN, run.run_id) == run.run_id
        if run.status in ("RUNNING", "KILLED") and not own and state.word == "done":
            resume_run(store, run.run_id).fail(f"superseded by run {state.last.user_attrs[RUN]}")
            drop_training_state(store.state(run.run_id))
        elif run.status in ("RUNNING", "KILLED") and state.word == "failed":
            resume_run(store, run.run_id).fail(state.error)
            drop_training_state(store.state(run.run_id))
        elif run.status == "RUNNING":
            if tags.PRUNED in run.tags:
                resume_run(store, run.run_id).prune(int(run.tags[tags.PRUNED]))
            else:
                store.mark_interrupted(run.run_id, "its worker died")

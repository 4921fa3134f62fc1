"""``sweep.py``: begins or continues a search, has its trials done, sums up."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
import yaml

from seglab.core.config import differences, flatten, without_local
from seglab.core.errors import UserError
from seglab.core.machine import tell
from seglab.core.study import Study
from seglab.data.open import StudyData
from seglab.models.build import build_model
from seglab.studies.ablation import find_finished
from seglab.studies.data import SharedData, share_patients
from seglab.studies.experiment import Interrupted, made_with
from seglab.studies.outputs import log_data
from seglab.studies.queue import Queue, one_at_a_time, open_queue
from seglab.studies.report.page import log_report
from seglab.studies.search.confirm import confirm, confirmation_study
from seglab.studies.search.figures import ended_trials
from seglab.studies.search.results import SearchOutcome, on_disk, publish, show_progress, trial_line
from seglab.studies.search.space import Space, make_space
from seglab.studies.search.trials import TrialItems, trial_keys
from seglab.studies.workers import run_items
from seglab.tracking import tags
from seglab.tracking.environment import code_hash
from seglab.tracking.errors import redact
from seglab.tracking.run import RunLog, resume_run, start_run
from seglab.tracking.store import Store, UnknownRun

PARENT, IDENTITY = "parent_run_id", "identity"
"""User attributes of the Optuna study."""


def run_search(
    study: Study, store: Store, *, workers: int = 1, timeout_s: float | None = None
) -> SearchOutcome:
    """Search until ``study.search.trials`` trials are complete or pruned.

    Begins the search, or continues it. At the end its figures, ``best.yaml`` and the
    confirmation are made and logged on the sweep's run. After ``timeout_s`` seconds what is
    trained is interrupted, to be continued.

    Raises:
        UserError: the space, the data or the storage cannot be used; the study is of
            something else; ten trials failed in a row.
        KeyboardInterrupt: stopped by the user, all in good order.
    """
    study = share_patients(study)
    space, shared = make_space(study), SharedData()
    data = shared.of(study.run)
    networks = {
        f"{config.model.model_dump_json()}{config.input_channels}": config
        for config in space.probes
        if config.data.image_size == study.run.data.image_size
    }
    for config in networks.values():  # so that a misfit shows before hours of search
        build_model(config.model, config.input_channels, data.cache.shape, pretrained=False)
    assert study.search is not None
    queue, keys = open_search(study, space, data, store), partial(trial_keys, study.search, space)
    if queue.is_done(keys) and (done := _find_finished(study, store, queue)) is not None:
        return done
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with one_at_a_time(study, store.folder):
        parent = open_sweep(study, store, queue.study, data)
    with parent:
        look = partial(show_progress, study, queue, parent, {*ended_trials(queue)})
        run_items(TrialItems, study, parent, queue, shared, workers, look=look, deadline=deadline)
        with one_at_a_time(study, store.folder):
            outcome = publish(study, queue, parent)
        if not queue.is_done(keys):
            parent.interrupt("the time was up")
            return outcome
        try:
            report, told = confirm(study, outcome, parent, workers=workers, deadline=deadline)
        except Interrupted:
            parent.interrupt("the time was up")
            return outcome
        best = trial_line(outcome.best) if outcome.best else None
        log_report(parent, study.name, best, told)
        return replace(outcome, confirmation=report)


def _find_finished(study: Study, store: Store, queue: Queue) -> SearchOutcome | None:
    """What this search, all of whose trials are done, came to, if the rest is: it stays as is."""
    known = queue.study.user_attrs.get(PARENT)
    runs = store.find_runs(study.name, {tags.KIND: "sweep"}, ["FINISHED"])
    if known not in [run.run_id for run in runs]:
        return None
    outcome = on_disk(study, queue, store, known)
    if outcome.best is None or study.search is None or study.search.confirm.top == 0:
        return outcome
    if isinstance(ablation := confirmation_study(study, outcome), str):
        return outcome
    confirmed = find_finished(share_patients(ablation), store, SharedData(warn=False))
    return None if confirmed is None else replace(outcome, confirmation=confirmed.report)


def open_search(study: Study, space: Space, data: StudyData, store: Store) -> Queue:
    """Find the queue of a search, or begin it.

    Raises UserError where it is there, but of another space, base config or data, or an earlier
    version began it in a journal file.
    """
    assert study.search is not None
    name = study.name
    queue = open_queue(study, store.folder, name)
    begun = queue.study
    journal = store.folder / "optuna" / f"{name}.log"
    if journal.exists() and IDENTITY not in begun.user_attrs:
        raise UserError(
            f"search '{name}' was begun by an earlier version in {journal}, which this one "
            "does not read: finish it there, or give this search another name: name=…"
        )
    domains = {key: one.model_dump(exclude_defaults=True) for key, one in space.domains.items()}
    identity = {
        "space": domains,
        "base": flatten({**without_local(space.base), "name": None}),
        "data": {"content": data.cache.data_hash, "split": data.split.hash},
        "second_objective": study.search.second_objective,
    }
    identity = json.loads(json.dumps(identity))
    if IDENTITY not in begun.user_attrs:
        begun.set_user_attr(IDENTITY, identity)
    changed = [
        f"{key} was {_short(before)}, is {_short(now)}"
        for key, (before, now) in differences(begun.user_attrs[IDENTITY], identity).items()
    ]
    if changed:
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"study '{name}' was begun with something else: {'; '.join(changed[:3])}{more}; "
            "change it back, or give this search another name: name=…"
        )
    return queue


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _warn_of_other_code(study: Study, store: Store, parent_run_id: str) -> None:
    trials = store.find_runs(parent_run_id=parent_run_id)
    others = [run for run in trials if run.tags.get(tags.CODE_HASH, code_hash()) != code_hash()]
    if others:
        made = f"{len(others)} of {len(trials)} trials were made with {made_with(store, others[0])}"
        tell(f"warning: search '{study.name}': {made}: the same parameters may give another Dice")


def open_sweep(study: Study, store: Store, begun: optuna.Study, data: StudyData) -> RunLog:
    """Open the parent run of a search, shared by every process that works on it."""
    known = begun.user_attrs.get(PARENT)
    if known is not None:
        try:
            _warn_of_other_code(study, store, known)
            return resume_run(store, known)
        except UnknownRun:
            raise UserError(
                f"search '{study.name}' logs to run {known}, which {redact(store.uri)} does not "
                "have: use the store it began with, or give this search another name: name=…"
            ) from None
    assert study.search is not None
    identity = {
        tags.KIND: "sweep",
        tags.STUDY: study.name,
        tags.DATA_HASH: data.cache.data_hash,
        tags.SPLIT_HASH: data.split.hash,
    }
    log = start_run(store, study.name, f"{study.name} · sweep", identity)
    begun.set_user_attr(PARENT, log.run_id)
    log.text(redact(yaml.safe_dump(dict(study.document), sort_keys=False)), "sweep.yaml")
    log_data(log, study.run, data, "training")
    space = {key: r.model_dump(exclude_defaults=True) for key, r in study.search.space.items()}
    log.params({"search.sampler": study.search.sampler, "search.space": json.dumps(space)})
    return log

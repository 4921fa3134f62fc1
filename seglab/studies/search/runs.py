"""The sweep's own run, and the truth about the runs below it."""

from __future__ import annotations

import json

import optuna
import yaml
from optuna.trial import TrialState

from seglab.core.errors import UserError
from seglab.core.study import Study
from seglab.studies.candidates import TRIAL
from seglab.studies.data import StudyData
from seglab.studies.search.endings import end_pruned
from seglab.studies.search.ledger import ERROR, RUN, Ledger
from seglab.studies.search.notes import note_study
from seglab.studies.search.storage import StudyStorage
from seglab.tracking import (
    RunInUse,
    RunLog,
    Store,
    UnknownRun,
    environment_tags,
    resume_run,
    start_run,
)
from seglab.tracking.errors import redact
from seglab.tracking.tags import PRUNED

PARENT, CODE = "parent_run_id", "code_hash"


def open_sweep(
    study: Study, store: Store, begun: optuna.Study, data: StudyData, storage: StudyStorage
) -> RunLog:
    """Open the parent run of a study, shared by every machine that works on it.

    Raises:
        UserError: another process of this machine works on it, or its runs are elsewhere.
    """
    search = study.search
    assert search is not None
    with storage.lock("claim"):
        known = begun.user_attrs.get(PARENT)
        if known is not None:
            return _reopen(store, known, study.name)
        tags = {
            **environment_tags(),
            "seglab.kind": "sweep",
            "seglab.study": study.name,
            "seglab.data_hash": data.cache.data_hash,
            "seglab.split_hash": data.split.hash,
        }
        log = start_run(store, study.name, f"{study.name} · sweep", tags)
        begun.set_user_attr(PARENT, log.run_id)
        note_study(begun, store, store.get_run(log.run_id), search.second_objective)
    log.text(redact(yaml.safe_dump(dict(study.document), sort_keys=False)), "sweep.yaml")
    # Workers that start together would otherwise trip over each other in MLflow, which
    # checks whether a dataset is known and only then adds it.
    log.dataset(data.cache.source, data.cache.data_hash, f"{data.cache.source}:{study.name}")
    space = {key: value.model_dump(exclude_defaults=True) for key, value in search.space.items()}
    log.params({"search.sampler": search.sampler, "search.space": json.dumps(space)})
    return log


def _reopen(store: Store, run_id: str, name: str) -> RunLog:
    try:
        return resume_run(store, run_id)
    except UnknownRun:
        raise UserError(
            f"study '{name}' logs to run {run_id}, which {redact(store.uri)} does not have: "
            "use the store it began with, or give this search another name: name=…"
        ) from None
    except RunInUse:
        raise UserError(f"search '{name}' is running in another process here") from None


def settle_runs(store: Store, ledger: Ledger, parent_run_id: str) -> None:
    """Give every run of the sweep that nobody works on its true status.

    A run may have outlived its trial: its machine went silent, or its code changed
    before it could go on and another run took its place.
    """
    trials = {str(t.number): t for t in ledger.trials}
    for run in store.find_runs(ledger.space.base.name, parent_run_id=parent_run_id):
        trial = trials.get(run.tags.get(TRIAL, ""))
        if trial is None or run.status == "FAILED" or store.in_use(run.run_id):
            continue
        if trial.state == TrialState.FAIL:
            reason = trial.user_attrs.get(ERROR) or ledger.silence(trial.number)
            resume_run(store, run.run_id).fail(reason)
        elif run.status == "FINISHED":
            continue
        elif trial.state == TrialState.PRUNED and PRUNED in run.tags:
            end_pruned(store, run)
        elif trial.user_attrs.get(RUN, run.run_id) != run.run_id:
            resume_run(store, run.run_id).fail(f"superseded by run {trial.user_attrs[RUN]}")
        elif trial.state == TrialState.RUNNING:
            store.mark_interrupted(run.run_id, "its worker died")

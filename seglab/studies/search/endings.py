"""Trials that end otherwise than by their training: failed, put down, given to another machine."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from seglab.core.config import flatten
from seglab.core.errors import TrainingDiverged, UserError
from seglab.studies.candidates import TRIAL
from seglab.studies.experiment import FAILED, RUNNING, drop_training_state
from seglab.studies.search.ledger import ERROR, Claim
from seglab.studies.search.workbench import Workbench, latest_run, name_run
from seglab.tracking import RunInfo, Store, environment_tags, resume_run, start_run
from seglab.tracking.errors import is_out_of_space, print_traceback
from seglab.tracking.tags import PRUNED

_LEAST_FREE_BYTES = 20_000_000
_LONGEST_ERROR = 1000


def end_badly(claim: Claim, workbench: Workbench, error: Exception) -> bool:
    """Record what an error made of a trial; returns whether this process is fit for another.

    Raises:
        UserError: a disk is full, which fails every trial alike: the search stops, and this
            trial goes on later.
    """
    if _meets_full_disk(error, workbench.store.folder):
        reason = f"no space is left: {' '.join(str(error).split())}"
        put_down(claim, workbench, reason)
        raise UserError(f"{reason}; free some, and the same command goes on") from error
    is_silent = isinstance(error, UpdateFinishedTrialError)
    is_fit = is_silent or isinstance(error, UserError | TrainingDiverged)
    if not is_fit:
        print_traceback()
    if is_silent or not fail_trial(claim, workbench, error):
        give_away(claim, workbench)
    return is_fit


def _meets_full_disk(error: Exception, folder: Path) -> bool:
    # Some errors do not say why; but what was half written is removed by now, which makes room.
    return is_out_of_space(error) or shutil.disk_usage(folder).free < _LEAST_FREE_BYTES


def end_pruned(store: Store, run: RunInfo) -> None:
    """End a pruned run whose worker died after it said so and before the run ended."""
    if run.status == RUNNING:
        resume_run(store, run.run_id).prune(int(run.tags[PRUNED]))
    drop_training_state(store.state(run.run_id))


def put_down(claim: Claim, workbench: Workbench, reason: str) -> None:
    """Leave a trial and its run to be continued, as far as a full disk lets that be written."""
    with suppress(OSError):
        workbench.ledger.release(claim.trial)
    with suppress(Exception):
        run = latest_run(claim, workbench)
        if run is not None and run.status == FAILED:
            resume_run(workbench.store, run.run_id).interrupt(reason)


def give_away(claim: Claim, workbench: Workbench) -> None:
    """End the run of a trial that another machine gave up while this one was silent."""
    number = claim.trial.number
    reason = workbench.ledger.silence(number)
    print(f"trial {number:03d} is given up here: {reason}", file=sys.stderr)
    run = latest_run(claim, workbench)
    if run is not None:
        resume_run(workbench.store, run.run_id).fail(reason)
        drop_training_state(workbench.store.state(run.run_id))


def fail_trial(claim: Claim, workbench: Workbench, error: Exception) -> bool:
    """Record a failure in the study, and in a run if training did not come that far.

    Returns:
        False if another machine had given the trial up.
    """
    expected = isinstance(error, UserError | TrainingDiverged)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())[:_LONGEST_ERROR]
    run = latest_run(claim, workbench)
    if run is None:
        run_id = _start_failed(claim, workbench, reason)
    else:
        run_id = run.run_id
        if run.status != FAILED:
            resume_run(workbench.store, run_id).fail(reason)
        drop_training_state(workbench.store.state(run_id))
    try:
        name_run(claim, workbench, run_id)
        claim.trial.set_user_attr(ERROR, reason)
        workbench.ledger.tell(claim.trial, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False
    return True


def _start_failed(claim: Claim, workbench: Workbench, reason: str) -> str:
    base, number = workbench.ledger.space.base, claim.trial.number
    tags = {
        **environment_tags(),
        "seglab.kind": "trial",
        "seglab.arm": f"trial {number:03d}",
        "seglab.seed": str(base.seed),
        "seglab.study": workbench.ledger.study.study_name,
        TRIAL: str(number),
    }
    name = f"trial {number:03d} · seed {base.seed}"
    log = start_run(workbench.store, base.name, name, tags, workbench.parent_run_id)
    log.params(flatten(base.to_dict()) | claim.params)
    log.fail(reason)
    return log.run_id

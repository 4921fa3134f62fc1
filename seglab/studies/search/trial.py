"""One trial: its config trained in a run of its own, pruned, finished or failed, and told."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping

import torch
from optuna.trial import TrialState

from seglab.core.errors import UserError
from seglab.core.search import Search
from seglab.learning.training import EpochResult
from seglab.models import count_parameters
from seglab.studies.candidates import TRIAL
from seglab.studies.experiment import (
    FAILED,
    FINISHED,
    OpenRun,
    Plan,
    is_unfinished,
    open_run,
)
from seglab.studies.search.endings import end_badly, end_pruned
from seglab.studies.search.ledger import ERROR, PROGRESS, Claim
from seglab.studies.search.patience import StudyAway
from seglab.studies.search.samplers import PATIENTS, build_pruner, is_judged, may_prune
from seglab.studies.search.workbench import Workbench, latest_run, name_run
from seglab.tracking.errors import StoreUnavailable
from seglab.tracking.tags import ERROR as RUN_ERROR
from seglab.tracking.tags import PRUNED

FIRST, SECONDS, PARAMETERS = "val/dice", "cost/train_seconds", "cost/parameters_m"


class Stopped(KeyboardInterrupt):
    """The search is to end: the run is interrupted, the trial can go on later."""


def plan_trial(claim: Claim, workbench: Workbench) -> Plan:
    """Build the run that a trial is to become.

    Raises:
        UserError: its parameters make no valid config.
    """
    config = workbench.ledger.space.build(claim.params)
    train = config.train.model_copy(update={"threads": claim.threads})
    return Plan(
        config=config.model_copy(update={"train": train}),
        arm=f"trial {claim.trial.number:03d}",
        kind="trial",
        parent_run_id=workbench.parent_run_id,
        tags={TRIAL: str(claim.trial.number), "seglab.study": workbench.ledger.study.study_name},
    )


def do_trial(claim: Claim, workbench: Workbench) -> bool:
    """Carry a claimed trial to its end, whatever that is, and tell the study.

    Returns:
        Whether this process is fit for another one. An error that nobody foresaw may leave it
        unfit: where memory ran out, what is freed stays in its address space, in pieces; a
        GPU's error stays with its process.

    Raises:
        Stopped: the search ends first; the trial was put down in good order.
        UserError: nothing can be recorded any more: the disk is full, or the server of
            the runs or of the study does not come back.
    """
    try:
        if claim.doomed is not None:
            raise UserError(claim.doomed)
        plan = plan_trial(claim, workbench)
        if not _settle(claim, workbench):
            _train(claim, plan, workbench)
    except StudyAway:  # nobody is there to take it back
        raise
    except (KeyboardInterrupt, StoreUnavailable):
        workbench.ledger.release(claim.trial)
        raise
    except Exception as error:  # whatever it is, the search goes on
        is_fit = end_badly(claim, workbench, error)
    else:
        is_fit = True
        if not torch.cuda.is_available():
            return is_fit  # to look for garbage takes longer than all else beside the training
    _free_memory()
    return is_fit


def _settle(claim: Claim, workbench: Workbench) -> bool:
    """Tell the study of a run that ended before its worker could; False if there is none."""
    run = latest_run(claim, workbench)
    if run is None:
        return False
    if run.status == FINISHED:
        _complete(claim, workbench, run.run_id, run.metrics)
    elif PRUNED in run.tags:
        end_pruned(workbench.store, run)
        workbench.ledger.tell(claim.trial, TrialState.PRUNED)
    elif run.status == FAILED and not is_unfinished(run, workbench.store):
        claim.trial.set_user_attr(ERROR, run.tags.get(RUN_ERROR, "unknown"))
        workbench.ledger.tell(claim.trial, TrialState.FAIL)
    else:
        return False
    return True


def _train(claim: Claim, plan: Plan, workbench: Workbench) -> None:
    with open_run(plan, workbench.store, workbench.open_data(plan.config)) as run:
        name_run(claim, workbench, run.log.run_id)
        for epoch in _judged_epochs(claim, plan, run, workbench):
            if _is_hopeless(claim, plan, epoch, workbench):
                run.prune(epoch)
                workbench.ledger.tell(claim.trial, TrialState.PRUNED)
                return
        outcome = run.conclude(pictures=_leads(run, workbench))
    _complete(claim, workbench, outcome.run_id, outcome.metrics)


def _judged_epochs(claim: Claim, plan: Plan, run: OpenRun, workbench: Workbench) -> Iterator[int]:
    """Train; yields each epoch that is in the study now, to be judged there.

    The last one of a run that goes on is yielded too: its worker may have died in between.
    """
    history = run.trainer.progress.history
    for row in history:
        _report(claim, plan, row)
    if history:
        yield int(history[-1]["epoch"])
    for result in run.epochs():
        _report(claim, plan, {"epoch": result.epoch, **result.metrics})
        _note_patients(claim, result, workbench)
        yield result.epoch
        if workbench.stopping() and not result.is_last:
            raise Stopped


def _report(claim: Claim, plan: Plan, row: dict[str, float]) -> None:
    """Put an epoch into the study, once."""
    trial, epoch, dice = claim.trial, int(row["epoch"]), row["val/dice"]
    if trial.user_attrs.get(PROGRESS, {}).get("epoch", 0) >= epoch:
        return
    if len(trial.study.directions) == 1 and math.isfinite(dice):
        trial.report(dice, epoch)
    progress = {"epoch": epoch, "epochs": plan.config.train.epochs, "dice": dice}
    trial.set_user_attr(PROGRESS, progress)


def _note_patients(claim: Claim, result: EpochResult, workbench: Workbench) -> None:
    """Give the pruner that compares patient by patient what it asks for."""
    if workbench.search.pruner.name == "wilcoxon":
        scores = [score.dice for score in sorted(result.scores, key=lambda s: s.patient_id)]
        known = claim.trial.user_attrs.get(PATIENTS, {})
        claim.trial.set_user_attr(PATIENTS, {**known, str(result.epoch): scores})


def _is_hopeless(claim: Claim, plan: Plan, epoch: int, workbench: Workbench) -> bool:
    trial, search, epochs = claim.trial, workbench.search, plan.config.train.epochs
    if not is_judged(search.pruner, epoch, epochs):
        return False
    trial.study.pruner = build_pruner(search.pruner, epochs)
    # Asked of every trial: halving compares others with what it was asked about.
    is_worse = trial.should_prune()
    return is_worse and not claim.is_base and may_prune(search.pruner, trial.study)


def _complete(claim: Claim, workbench: Workbench, run_id: str, metrics: dict[str, float]) -> None:
    name_run(claim, workbench, run_id)
    values = _objectives(metrics, workbench.search)
    if any(math.isnan(value) for value in values):
        raise UserError("val/dice is not a number: no validation patient has a tumour")
    workbench.ledger.tell(claim.trial, TrialState.COMPLETE, values)


def _objectives(metrics: Mapping[str, float], search: Search) -> list[float]:
    second = {"train_seconds": SECONDS, "parameters": PARAMETERS}.get(search.second_objective)
    wanted = [FIRST] if second is None else [FIRST, second]
    return [metrics.get(key, math.nan) for key in wanted]


def _leads(run: OpenRun, workbench: Workbench) -> bool:
    """Whether no complete trial is as good: pictures take long, and nobody looks at the others'."""
    progress = run.trainer.progress
    dice, *cost = _objectives(
        {
            FIRST: progress.best_dice,
            SECONDS: progress.train_seconds,
            PARAMETERS: count_parameters(run.trainer.network) / 1e6,
        },
        workbench.search,
    )
    return not any(
        other.values[0] >= dice and other.values[1:] <= cost
        for other in workbench.ledger.trials
        if other.state == TrialState.COMPLETE
    )


def _free_memory() -> None:
    """The next trial must not start without what a failed one held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

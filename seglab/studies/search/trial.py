"""One trial: its config trained in a run of its own, pruned, finished or failed, and told."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from optuna.trial import TrialState

from seglab.core.config import RunConfig, flatten
from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.search import Search
from seglab.learning.training import EpochResult
from seglab.models import count_parameters
from seglab.studies.candidates import TRIAL
from seglab.studies.data import StudyData
from seglab.studies.experiment import (
    FAILED,
    FINISHED,
    OpenRun,
    Plan,
    drop_training_state,
    is_unfinished,
    open_run,
)
from seglab.studies.search.ledger import ERROR, PROGRESS, RUN, Claim, Ledger
from seglab.studies.search.notes import note_trial
from seglab.studies.search.samplers import PATIENTS, build_pruner, is_judged, may_prune
from seglab.tracking import RunInfo, Store, environment_tags, resume_run, start_run
from seglab.tracking.failures import StoreAway, print_traceback

PRUNED, FAILURE = "seglab.pruned_at_epoch", "seglab.error"
FIRST, SECONDS, PARAMETERS = "val/dice", "cost/train_seconds", "cost/parameters_m"
_LEAST_FREE_BYTES = 20_000_000
_LONGEST_ERROR = 1000


class Stopped(KeyboardInterrupt):
    """The search is to end: the run is interrupted, the trial can go on later."""


@dataclass(frozen=True)
class Bench:
    """What a worker has at hand for every trial."""

    ledger: Ledger
    store: Store
    parent_run_id: str
    open_data: Callable[[RunConfig], StudyData]
    stopping: Callable[[], bool]

    @property
    def search(self) -> Search:
        """The search block of the file."""
        return self.ledger.search


def plan_trial(claim: Claim, bench: Bench) -> Plan:
    """Build the run that a trial is to become.

    Raises:
        UserError: its parameters make no valid config.
    """
    config = bench.ledger.space.build(claim.params)
    train = config.train.model_copy(update={"threads": claim.threads})
    return Plan(
        config=config.model_copy(update={"train": train}),
        arm=f"trial {claim.trial.number:03d}",
        kind="trial",
        parent_run_id=bench.parent_run_id,
        tags={TRIAL: str(claim.trial.number), "seglab.study": bench.ledger.study.study_name},
    )


def do_trial(claim: Claim, bench: Bench) -> bool:
    """Carry a claimed trial to its end, whatever that is, and tell the study.

    Returns:
        Whether this process is fit for another one. An error that nobody foresaw may leave it
        unfit: where memory ran out, what is freed stays in its address space, in pieces; a
        GPU's error stays with its process.

    Raises:
        Stopped: the search ends first; the trial was put down in good order.
        UserError: nothing can be recorded any more: the disk is full, or the server of
            the runs does not come back.
    """
    try:
        if claim.doomed is not None:
            raise UserError(claim.doomed)
        plan = plan_trial(claim, bench)
        if not _settle(claim, bench):
            _train(claim, plan, bench)
    except (KeyboardInterrupt, StoreAway):
        bench.ledger.release(claim.trial)
        raise
    except Exception as error:  # whatever it is, the search goes on
        _check_disk(bench.store)
        is_fit = isinstance(error, UserError | TrainingDiverged)
        if not is_fit:
            print_traceback()
        fail_trial(claim, bench, error)
    else:
        is_fit = True
        if not torch.cuda.is_available():
            return is_fit  # to look for garbage takes longer than all else beside the training
    _free_memory()
    return is_fit


def _settle(claim: Claim, bench: Bench) -> bool:
    """Tell the study of a run that ended before its worker could; False if there is none."""
    run = latest_run(claim, bench)
    if run is None:
        return False
    if run.status == FINISHED:
        _complete(claim, bench, run.run_id, run.metrics)
    elif PRUNED in run.tags:
        bench.ledger.tell(claim.trial, TrialState.PRUNED)
    elif run.status == FAILED and not is_unfinished(run, bench.store):
        claim.trial.set_user_attr(ERROR, run.tags.get(FAILURE, "unknown"))
        bench.ledger.tell(claim.trial, TrialState.FAIL)
    else:
        return False
    return True


def latest_run(claim: Claim, bench: Bench) -> RunInfo | None:
    """Return the newest run of a trial, if it has one."""
    runs = bench.store.find_runs(
        bench.ledger.space.base.name,
        {TRIAL: str(claim.trial.number)},
        parent_run_id=bench.parent_run_id,
    )
    return runs[0] if runs else None


def _train(claim: Claim, plan: Plan, bench: Bench) -> None:
    with open_run(plan, bench.store, bench.open_data(plan.config)) as run:
        _name_run(claim, bench, run.log.run_id)
        for row in run.trainer.progress.history:
            _report(claim, plan, row)
        for result in run.epochs():
            _report(claim, plan, {"epoch": result.epoch, **result.metrics})
            if _is_hopeless(claim, plan, result, bench):
                run.prune(result.epoch)
                bench.ledger.tell(claim.trial, TrialState.PRUNED)
                return
            if bench.stopping() and not result.is_last:
                raise Stopped
        outcome = run.conclude(pictures=_leads(run, bench))
    _complete(claim, bench, outcome.run_id, outcome.metrics)


def _name_run(claim: Claim, bench: Bench, run_id: str) -> None:
    """Tie the trial to its run, once."""
    trial = claim.trial
    if trial.user_attrs.get(RUN) != run_id:
        trial.set_user_attr(RUN, run_id)
        run = bench.store.get_run(run_id)
        note_trial(bench.ledger.study, trial._trial_id, bench.store, run)


def _report(claim: Claim, plan: Plan, row: dict[str, float]) -> None:
    """Put an epoch into the study, once."""
    trial, epoch, dice = claim.trial, int(row["epoch"]), row["val/dice"]
    if trial.user_attrs.get(PROGRESS, {}).get("epoch", 0) >= epoch:
        return
    if len(trial.study.directions) == 1 and math.isfinite(dice):
        trial.report(dice, epoch)
    progress = {"epoch": epoch, "epochs": plan.config.train.epochs, "dice": dice}
    trial.set_user_attr(PROGRESS, progress)


def _is_hopeless(claim: Claim, plan: Plan, result: EpochResult, bench: Bench) -> bool:
    trial, search, epochs = claim.trial, bench.search, plan.config.train.epochs
    if search.pruner.name == "wilcoxon":
        scores = [score.dice for score in sorted(result.scores, key=lambda s: s.patient_id)]
        known = trial.user_attrs.get(PATIENTS, {})
        trial.set_user_attr(PATIENTS, {**known, str(result.epoch): scores})
    if not is_judged(search.pruner, result.epoch, epochs):
        return False
    trial.study.pruner = build_pruner(search.pruner, epochs)
    # Asked of every trial: halving compares others with what it was asked about.
    is_worse = trial.should_prune()
    return is_worse and not claim.is_base and may_prune(search.pruner, trial.study)


def _complete(claim: Claim, bench: Bench, run_id: str, metrics: dict[str, float]) -> None:
    _name_run(claim, bench, run_id)
    values = _objectives(metrics, bench.search)
    if any(math.isnan(value) for value in values):
        raise UserError("val/dice is not a number: no validation patient has a tumour")
    bench.ledger.tell(claim.trial, TrialState.COMPLETE, values)


def _objectives(metrics: Mapping[str, float], search: Search) -> list[float]:
    second = {"train_seconds": SECONDS, "parameters": PARAMETERS}.get(search.second_objective)
    wanted = [FIRST] if second is None else [FIRST, second]
    return [metrics.get(key, math.nan) for key in wanted]


def _leads(run: OpenRun, bench: Bench) -> bool:
    """Whether no complete trial is as good: pictures take long, and nobody looks at the others'."""
    progress = run.trainer.progress
    dice, *cost = _objectives(
        {
            FIRST: progress.best_dice,
            SECONDS: progress.train_seconds,
            PARAMETERS: count_parameters(run.trainer.network) / 1e6,
        },
        bench.search,
    )
    return not any(
        other.values[0] >= dice and other.values[1:] <= cost
        for other in bench.ledger.trials
        if other.state == TrialState.COMPLETE
    )


def fail_trial(claim: Claim, bench: Bench, error: Exception) -> None:
    """Record a failure in the study, and in a run if training did not come that far."""
    expected = isinstance(error, UserError | TrainingDiverged)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())[:_LONGEST_ERROR]
    run = latest_run(claim, bench)
    if run is None:
        run_id = _start_failed(claim, bench, reason)
    else:
        run_id = run.run_id
        if run.status not in {FINISHED, FAILED} and PRUNED not in run.tags:
            resume_run(bench.store, run_id).fail(reason)
        drop_training_state(bench.store.state(run_id))
    _name_run(claim, bench, run_id)
    claim.trial.set_user_attr(ERROR, reason)
    bench.ledger.tell(claim.trial, TrialState.FAIL)


def _start_failed(claim: Claim, bench: Bench, reason: str) -> str:
    base, number = bench.ledger.space.base, claim.trial.number
    tags = {
        **environment_tags(),
        "seglab.kind": "trial",
        "seglab.arm": f"trial {number:03d}",
        "seglab.seed": str(base.seed),
        "seglab.study": bench.ledger.study.study_name,
        TRIAL: str(number),
    }
    name = f"trial {number:03d} · seed {base.seed}"
    log = start_run(bench.store, base.name, name, tags, bench.parent_run_id)
    log.params(flatten(base.to_dict()) | claim.params)
    log.fail(reason)
    return log.run_id


def _check_disk(store: Store) -> None:
    """A full disk fails every trial alike: the search stops, and its trial can go on later."""
    if shutil.disk_usage(store.folder).free < _LEAST_FREE_BYTES:
        raise UserError(f"{store.folder}: no space is left; free some, the same command goes on")


def _free_memory() -> None:
    """The next trial must not start without what a failed one held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

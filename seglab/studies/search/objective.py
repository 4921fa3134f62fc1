"""One trial of a search: its config trained in a run of its own, pruned, finished or failed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.search import Range, Search, Value
from seglab.learning.training import EpochResult
from seglab.models import count_parameters
from seglab.studies.data import StudyData
from seglab.studies.experiment import FINISHED, OpenRun, Plan, find_twins, open_run
from seglab.studies.queue import ItemFailed, Queue
from seglab.studies.search.samplers import PATIENTS, build_pruner, is_judged, may_prune
from seglab.studies.search.space import Params, Space
from seglab.studies.workers import Interrupted
from seglab.tracking import RunInfo, Store, tags
from seglab.tracking.errors import StoreUnavailable, is_out_of_space, print_traceback, redact
from seglab.tracking.tags import PRUNED, TRIAL

DICE, SECONDS, PARAMETERS = "val/dice", "cost/train_seconds", "cost/parameters_m"
THREADS, PROGRESS, RUN = "threads", "progress", "run_id"
"""User attributes of a trial."""
BASE_KEY = "0"
"""Key of the trial of the base config."""
MAX_FAILURES = 10
_LEAST_FREE_BYTES = 20_000_000
_MAX_ERROR = 1000


class TooManyFailures(UserError):
    """Trials fail one after the other: something is wrong with all of them."""


@dataclass
class SearchWorker:
    """What a worker has at hand for every trial."""

    queue: Queue
    space: Space
    search: Search
    store: Store
    parent_run_id: str
    open_data: Callable[[RunConfig], StudyData]
    stop: Callable[[], bool]
    threads: int
    is_fit: bool = True
    """Whether this process can do another trial: after an error that was not expected, memory
    may be in pieces, and a GPU's error stays with its process."""

    def keys(self) -> Iterator[str]:
        """Keys of the trials to be done: as many as asked for, and one for each that failed.

        Raises:
            TooManyFailures: the last ten all failed.
        """
        check_failures(self.queue)
        failed = sum(state.word == "failed" for state in self.queue.states().values())
        limit = self.search.trials + failed
        if self.search.sampler == "grid":
            limit = sum(1 for _ in islice(self.space.grid(), limit))
        return map(str, range(limit))

    def new(self, key: str) -> tuple[Params, Mapping[str, Any]]:
        """Fixed parameters of a new trial: the base config's, a point of the grid's, or none."""
        attributes = {THREADS: self.threads}
        if key == BASE_KEY:
            return self.space.base_params, attributes
        if self.search.sampler == "grid":
            return next(islice(self.space.grid(), int(key), None)), attributes
        return {}, attributes

    def objective(self, trial: Trial, key: str) -> Any:
        """Do a trial; returns its value, or one for each objective.

        Raises:
            optuna.TrialPruned: it was stopped early.
            ItemFailed: it failed, for a reason that need not concern others.
            UserError: nothing can be recorded any more: the disk is full, or the store is away.
        """
        try:
            params = self.space.suggest(lambda name, domain: _suggest(trial, name, domain))
            plan = self._plan(trial, key, params)
            return self._finished(trial, plan) or self._train(trial, key, plan)
        except (optuna.TrialPruned, StoreUnavailable, KeyboardInterrupt):
            raise
        except Exception as error:
            raise self._failure(error) from error

    def _plan(self, trial: Trial, key: str, params: Params) -> Plan:
        config = self.space.build(params)
        threads = trial.user_attrs.get(THREADS, self.threads)
        train = config.train.model_copy(update={"threads": threads or config.train.threads})
        return Plan(
            config=config.model_copy(update={"train": train}),
            arm=f"trial {int(key):03d}",
            kind="trial",
            parent_run_id=self.parent_run_id,
            tags={TRIAL: key, tags.STUDY: trial.study.study_name},
        )

    def _finished(self, trial: Trial, plan: Plan) -> list[float] | None:
        """Values of a trial whose worker died after its run had ended; None where it goes on."""
        for run in find_twins(plan, self.store, self.open_data(plan.config)):
            if run.status == FINISHED:
                trial.set_user_attr(RUN, run.run_id)
                return self._values(run.metrics)
            if PRUNED in run.tags:
                trial.set_user_attr(RUN, run.run_id)
                raise optuna.TrialPruned
        return None

    def _train(self, trial: Trial, key: str, plan: Plan) -> list[float]:
        with open_run(plan, self.store, self.open_data(plan.config)) as run:
            trial.set_user_attr(RUN, run.log.run_id)
            for epoch in self._epochs(trial, plan, run):
                if self._should_prune(trial, key, plan, epoch):
                    run.prune(epoch)
                    raise optuna.TrialPruned
            outcome = run.conclude(pictures=self._leads(run))
        return self._values(outcome.metrics)

    def _epochs(self, trial: Trial, plan: Plan, run: OpenRun) -> Iterator[int]:
        """Train; yields each epoch once it is reported.

        The last one of a resumed run is yielded too: its worker may have died in between.
        """
        history = run.trainer.progress.history
        for row in history:
            _report(trial, plan, row)
        if history:
            yield int(history[-1]["epoch"])
        for result in run.epochs():
            _report(trial, plan, {"epoch": result.epoch, **result.metrics})
            self._report_patients(trial, result)
            yield result.epoch
            if self.stop() and not result.is_last:
                raise Interrupted

    def _report_patients(self, trial: Trial, result: EpochResult) -> None:
        """Give the pruner that compares patient by patient what it needs."""
        if self.search.pruner.name == "wilcoxon":
            scores = [score.dice for score in sorted(result.scores, key=lambda s: s.patient_id)]
            known = trial.user_attrs.get(PATIENTS, {})
            trial.set_user_attr(PATIENTS, {**known, str(result.epoch): scores})

    def _should_prune(self, trial: Trial, key: str, plan: Plan, epoch: int) -> bool:
        epochs, pruner = plan.config.train.epochs, self.search.pruner
        if not is_judged(pruner, epoch, epochs):
            return False
        trial.study.pruner = build_pruner(pruner, epochs)
        # Asked of every trial: halving compares others with what it was asked about.
        is_worse = trial.should_prune()
        return is_worse and key != BASE_KEY and may_prune(pruner, trial.study)

    def _values(self, metrics: Mapping[str, float]) -> list[float]:
        second = {"train_seconds": SECONDS, "parameters": PARAMETERS}.get(
            self.search.second_objective
        )
        values = [metrics.get(name, math.nan) for name in ([DICE, second] if second else [DICE])]
        if any(math.isnan(value) for value in values):
            raise UserError("val/dice is not a number: no validation patient has a tumour")
        return values

    def _leads(self, run: OpenRun) -> bool:
        """Whether no complete trial is as good: pictures take long, and only the best's matter."""
        progress = run.trainer.progress
        metrics = {
            DICE: progress.history[run.trainer.kept_epoch - 1][DICE],
            SECONDS: progress.train_seconds,
            PARAMETERS: count_parameters(run.trainer.network) / 1e6,
        }
        dice, *cost = self._values(metrics)
        return not any(
            other.values[0] >= dice and other.values[1:] <= cost
            for other in self.queue.trials
            if other.state == TrialState.COMPLETE
        )

    def _failure(self, error: Exception) -> Exception:
        """What is raised for an error: the trial's own failure, or one that stops the search."""
        free = shutil.disk_usage(self.store.folder).free
        if is_out_of_space(error) or free < _LEAST_FREE_BYTES:
            reason = " ".join(str(error).split())
            return UserError(
                f"no space is left: {reason}; free some, and the same command continues"
            )
        if isinstance(error, UserError | TrainingDiverged):
            return ItemFailed(str(error))
        print_traceback()
        self.is_fit = False
        reason = redact(f"{type(error).__name__}: {error}")
        return ItemFailed(" ".join(reason.split())[:_MAX_ERROR])


def _report(trial: Trial, plan: Plan, row: Mapping[str, float]) -> None:
    """Report an epoch to the study, once."""
    epoch, dice = int(row["epoch"]), row["val/dice"]
    if trial.user_attrs.get(PROGRESS, {}).get("epoch", 0) >= epoch and _is_reported(trial, epoch):
        return
    if len(trial.study.directions) == 1 and math.isfinite(dice):
        trial.report(dice, epoch)
    progress = {"epoch": epoch, "epochs": plan.config.train.epochs, "dice": dice}
    trial.set_user_attr(PROGRESS, progress)


def _is_reported(trial: Trial, epoch: int) -> bool:
    """Whether this trial has the epoch; one that retries another has none of its values."""
    found = trial.study.get_trials(deepcopy=False)[trial.number]
    return epoch in found.intermediate_values


def check_failures(queue: Queue) -> None:
    """Raise if the last ten trials of this command all failed, and none is at work.

    Raises:
        TooManyFailures: so it is.
    """
    states = list(queue.states().values())
    if any(state.word == "active" for state in states):
        return
    ended = [s for s in states if s.last and s.last.datetime_complete]
    ended = [s for s in ended if s.last.datetime_complete >= queue.since]  # type: ignore
    ended.sort(key=lambda state: state.last.datetime_complete, reverse=True)  # type: ignore
    failed = 0
    for state in ended:
        if state.word != "failed":
            break
        failed += 1
    if failed >= MAX_FAILURES:
        raise TooManyFailures(
            f"stopped: {failed} trials failed in a row; the last: {ended[0].error}"
        )


def run_of(trial: FrozenTrial, runs: Mapping[str, RunInfo]) -> RunInfo | None:
    """The run of a trial among those of the search, by id."""
    return runs.get(trial.user_attrs.get(RUN, ""))


def _suggest(trial: Trial, key: str, domain: Range) -> Value:
    if domain.choices is not None:
        choice: Value = trial.suggest_categorical(key, domain.choices)
        return choice
    assert domain.low is not None
    assert domain.high is not None
    if domain.integer:
        step = int(domain.step or 1)
        high = int(domain.low) + (int(domain.high) - int(domain.low)) // step * step
        return trial.suggest_int(key, int(domain.low), high, step=step, log=domain.log)
    high_f = domain.high
    if domain.step:
        steps = int((domain.high - domain.low) / domain.step + 1e-9)
        high_f = domain.low + steps * domain.step
    return trial.suggest_float(key, domain.low, high_f, step=domain.step, log=domain.log)

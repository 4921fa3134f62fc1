"""The trials of a search as items of a queue: each trained in a run of its own, or pruned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from seglab.core.errors import UserError
from seglab.core.search import Range, Value
from seglab.studies.experiment import FINISHED, OpenRun, Plan, find_twins, open_run
from seglab.studies.queue import Params, Queue
from seglab.studies.search.samplers import (
    build_pruner,
    build_sampler,
    is_judged,
    may_prune,
)
from seglab.studies.search.space import Space
from seglab.studies.workers import Context, Interrupted, with_threads
from seglab.tracking import tags

DICE = "val/dice"
SECOND = {"train_seconds": "cost/train_seconds", "parameters": "cost/parameters_m"}
THREADS, RUN = "threads", "run_id"
"""User attributes of a trial."""
BASE_KEY = "0"
"""Key of the trial of the base config."""
MAX_FAILURES = 10


class TrialItems:
    """The trials of a search, by their number."""

    def __init__(self, context: Context) -> None:
        assert context.study.search is not None
        self.context, self.search = context, context.study.search
        self.queue, self.space = context.queue, Space.of(context.study)

    def keys(self) -> Iterable[str]:
        """Keys of the trials to be done: as many as asked for, and one for each that failed.

        Raises:
            UserError: the last ten all failed.
        """
        check_failures(self.queue)
        words = [state.word for state in self.queue.states().values()]
        ended = words.count("done") + words.count("failed")
        self.queue.study.sampler = build_sampler(self.search, ended, words.count("active"))
        limit = self.search.trials + words.count("failed")
        if self.search.sampler == "grid":
            limit = min(limit, len(self.space.grid))
        return map(str, range(limit))

    def new(self, key: str) -> tuple[Params, Mapping[str, Any]]:
        """Fixed parameters of a trial: the base config's, a point of the grid's, or none."""
        params: Params = self.space.base_params if key == BASE_KEY else {}
        if self.search.sampler == "grid":
            params = self.space.grid[int(key)]
        return params, {THREADS: self.context.task.threads}

    def do(self, trial: Trial, key: str) -> list[float]:
        """Train a trial, or find it done; returns its value for each objective.

        Raises:
            optuna.TrialPruned: it was stopped early.
        """
        params = self.space.suggest(lambda name, domain: _suggest(trial, name, domain))
        store, data = self.context.store, self.context.data
        plan = Plan(
            with_threads(self.space.build(params), trial.user_attrs.get(THREADS, 0)),
            arm=f"trial {int(key):03d}",
            kind="trial",
            parent_run_id=self.context.task.parent_run_id,
            tags={tags.TRIAL: key, tags.STUDY: trial.study.study_name},
        )
        opened = data.of(plan.config)
        for twin in find_twins(plan, store, opened):  # of a worker that died after its run ended
            if twin.status == FINISHED or tags.PRUNED in twin.tags:
                trial.set_user_attr(RUN, twin.run_id)
                if twin.status == FINISHED:
                    return self._values(twin.metrics)
                raise optuna.TrialPruned
        with open_run(plan, store, opened) as run:
            trial.set_user_attr(RUN, run.log.run_id)
            for epoch in self._epochs(trial, run):
                if self._should_prune(trial, key, epoch, plan.config.train.epochs):
                    run.prune(epoch)
                    raise optuna.TrialPruned
            dice = run.trainer.progress.history[run.trainer.kept_epoch - 1][DICE]
            # Pictures take long, and only those of the best are looked at.
            outcome = run.conclude(pictures=not any(other >= dice for other in self._complete()))
        return self._values(outcome.metrics)

    def _complete(self) -> list[float]:
        trials = self.queue.trials
        return [trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE]

    def _epochs(self, trial: Trial, run: OpenRun) -> Iterator[int]:
        """Train; yields each epoch once it is reported.

        The last one of a resumed run is yielded too: its worker may have died in between.
        """
        history = run.trainer.progress.history
        for row in history:
            self._report(trial, int(row["epoch"]), row[DICE])
        if history:
            yield int(history[-1]["epoch"])
        for result in run.epochs():
            self._report(trial, result.epoch, result.metrics[DICE])
            yield result.epoch
            if self.context.stop() and not result.is_last:
                raise Interrupted

    def _report(self, trial: Trial, epoch: int, dice: float) -> None:
        if self.search.second_objective == "none" and math.isfinite(dice):
            trial.report(dice, epoch)

    def _should_prune(self, trial: Trial, key: str, epoch: int, epochs: int) -> bool:
        pruner = self.search.pruner
        if not is_judged(pruner, epoch, epochs):
            return False
        trial.study.pruner = build_pruner(pruner, epochs)
        # Asked of every trial: halving compares others with what it was asked about.
        is_worse = trial.should_prune()
        return is_worse and key != BASE_KEY and may_prune(pruner, trial.study)

    def _values(self, metrics: Mapping[str, float]) -> list[float]:
        names = [DICE, *filter(None, [SECOND.get(self.search.second_objective)])]
        values = [metrics.get(name, math.nan) for name in names]
        if any(math.isnan(value) for value in values):
            raise UserError("val/dice is not a number: no validation patient has a tumour")
        return values


def check_failures(queue: Queue) -> None:
    """Raise if the last ten trials of this command all failed, and none is at work.

    Raises:
        UserError: so it is.
    """
    states = list(queue.states().values())
    ended = [
        (state.last.datetime_complete, state)
        for state in states
        if state.last.datetime_complete and state.last.datetime_complete >= queue.since
    ]
    last = [state for _, state in sorted(ended, key=lambda one: one[0])[-MAX_FAILURES:]]
    is_active = any(state.word == "active" for state in states)
    if not is_active and [state.word for state in last] == ["failed"] * MAX_FAILURES:
        raise UserError(
            f"stopped: {MAX_FAILURES} trials failed in a row; the last: {last[-1].error}"
        )


def _suggest(trial: Trial, key: str, domain: Range) -> Value:
    if domain.choices is not None:
        choice: Value = trial.suggest_categorical(key, domain.choices)
        return choice
    low, high = domain.bounds
    if domain.integer:
        step = int(domain.step or 1)
        return trial.suggest_int(key, int(low), int(high), step=step, log=domain.log)
    return trial.suggest_float(key, low, high, step=domain.step, log=domain.log)

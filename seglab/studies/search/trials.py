"""The trials of a search as items of a queue: which config is next, trained in a run, or pruned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from seglab.core.errors import UserError
from seglab.core.machine import tell
from seglab.core.search import Pruner, Range, Search, Value
from seglab.studies.candidates import DICE
from seglab.studies.experiment import (
    FINISHED,
    Interrupted,
    OpenRun,
    Plan,
    find_twins,
    open_run,
    show,
)
from seglab.studies.queue import Params, State
from seglab.studies.search.space import Space
from seglab.studies.workers import Context, with_threads
from seglab.tracking import tags

SECOND = {"train_seconds": "cost/train_seconds", "parameters": "cost/parameters_m"}
THREADS, RUN = "threads", "run_id"
"""User attributes of a trial."""
MAX_FAILURES = 10
_FEWEST_RANDOM, _MOST_RANDOM = 4, 10
_SECOND_LOOK = 2 / 3
_KEPT = (1 / 3, 1 / 2)
"""Of ``RungPruner``: shares that go on, of all at the first look, of the rest at the second."""


class TrialItems:
    """The trials of a search, by their number."""

    def __init__(self, context: Context) -> None:
        assert context.study.search is not None
        self.context, self.search = context, context.study.search
        self.queue, self.space = context.queue, Space.of(context.study)

    def keys(self, states: Mapping[str, State]) -> Iterable[str]:
        """See :func:`trial_keys`; a UserError where the last ten all failed."""
        check_failures(states, self.queue.before)
        words = [state.word for state in states.values()]
        ended = words.count("done") + words.count("failed")
        self.queue.study.sampler = build_sampler(self.search, ended, words.count("active"))
        return trial_keys(self.search, self.space, states)

    def new(self, key: str) -> tuple[Params, Mapping[str, Any]]:
        """Fixed parameters of a trial: the base config's, a point of the grid's, or none."""
        params: Params = self.space.base_params if key == tags.BASE_TRIAL else {}
        if self.search.sampler == "grid":
            params = self.space.grid[int(key)]
        return params, {THREADS: self.context.task.threads}

    def do(self, trial: Trial, key: str) -> list[float]:
        """Train a trial, or find it done; returns its value for each objective."""
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
        tell(f"{plan.arm}: {params_text(trial.params)}")
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
        for epoch in run.epochs():
            show(run.plan, run.trainer)
            self._report(trial, epoch, history[-1][DICE])
            yield epoch
            if self.context.stop() and not run.trainer.is_over:
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
        return is_worse and key != tags.BASE_TRIAL and may_prune(pruner, trial.study)

    def _values(self, metrics: Mapping[str, float]) -> list[float]:
        names = [DICE, *filter(None, [SECOND.get(self.search.second_objective)])]
        values = [metrics.get(name, math.nan) for name in names]
        if any(math.isnan(value) for value in values):
            raise UserError("val/dice is not a number: no validation patient has a tumour")
        return values


def params_text(params: Params) -> str:
    """The params of a trial in a line."""
    short = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in params.items()}
    return " ".join(f"{key}={value}" for key, value in short.items())


def trial_keys(search: Search, space: Space, states: Mapping[str, State]) -> Iterable[str]:
    """Keys of the trials to be done: as many as asked for, and one for each that failed."""
    limit = search.trials + sum(state.word == "failed" for state in states.values())
    if search.sampler == "grid":
        limit = min(limit, len(space.grid))
    return map(str, range(limit))


def check_failures(states: Mapping[str, State], before: Set[int]) -> None:
    """Raise a UserError if the last ten trials of this command failed, and none is at work."""
    ended = [
        (state.last.datetime_complete, state)
        for state in states.values()
        if state.last.datetime_complete and state.last.number not in before
    ]
    last = [state for _, state in sorted(ended, key=lambda one: one[0])[-MAX_FAILURES:]]
    is_active = any(state.word == "active" for state in states.values())
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


def build_sampler(search: Search, ended: int, active: int = 0) -> BaseSampler:
    """Build the sampler of the next trial.

    Made anew for every trial, seeded with the number of trials that ended and that others are
    at: processes that shared a seed would all propose the same, and so would a continued study.
    """
    seed = int(np.random.SeedSequence([search.seed, ended, active]).generate_state(1)[0])
    startup = min(_MOST_RANDOM, max(_FEWEST_RANDOM, search.trials // 3))
    samplers, random = optuna.samplers, optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "tpe":
        conditional = any(domain.when for domain in search.space.values())
        return samplers.TPESampler(seed=seed, n_startup_trials=startup, group=conditional)
    if search.sampler == "gp":
        return samplers.GPSampler(
            seed=seed, n_startup_trials=startup, warn_independent_sampling=False
        )
    if search.sampler == "qmc":
        # The study counts the points of the sequence, so that its seed stays the same.
        return samplers.QMCSampler(
            seed=search.seed,
            scramble=True,
            independent_sampler=random,
            warn_independent_sampling=False,
        )
    return random


def build_pruner(pruner: Pruner, epochs: int) -> BasePruner:
    """Build the pruner; warm-up is :func:`is_judged`'s, start-up trials :func:`may_prune`'s."""
    first = max(1, math.ceil(pruner.warmup_fraction * epochs))
    if pruner.name == "rungs":
        return RungPruner(first, epochs)
    if pruner.name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=0)
    if pruner.name == "percentile":
        return optuna.pruners.PercentilePruner(pruner.percentile, n_startup_trials=0)
    if pruner.name == "halving":
        # One in four goes on at each rung, as in Li et al. 2020 (arXiv:1810.05934).
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=4)
    if pruner.name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=max(epochs, first))
    return optuna.pruners.NopPruner()


def is_judged(pruner: Pruner, epoch: int, epochs: int) -> bool:
    """Whether the pruner looks at a trial after this epoch: no sooner than the warm-up's last."""
    warmup = math.ceil(pruner.warmup_fraction * epochs)
    return pruner.name != "none" and warmup <= epoch < epochs


def may_prune(pruner: Pruner, study: optuna.Study) -> bool:
    """Whether enough trials are complete for others to be stopped."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return len(complete) >= pruner.startup


class RungPruner(BasePruner):
    """Looks at a trial's best Dice so far, after the warm-up and at two thirds of its epochs.

    Between the two a one-cycle rate is past its peak, and networks that will end best are
    often the worst: judged after each epoch, as a median does, they are pruned there.
    """

    def __init__(self, first: int, epochs: int) -> None:
        self._kept = {math.ceil(_SECOND_LOOK * epochs): _KEPT[1]} | {first: _KEPT[0]}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Say whether ``trial`` is too low among all that came as far."""
        epoch = trial.last_step
        if epoch is None or epoch not in self._kept:
            return False
        others = [
            _best_until(other, epoch)
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and epoch in other.intermediate_values
        ]
        places = max(1, math.floor(self._kept[epoch] * (len(others) + 1) + 0.5))
        return sum(other > _best_until(trial, epoch) for other in others) >= places


def _best_until(trial: FrozenTrial, epoch: int) -> float:
    """Highest Dice of a trial up to ``epoch``."""
    return max(dice for step, dice in trial.intermediate_values.items() if step <= epoch)

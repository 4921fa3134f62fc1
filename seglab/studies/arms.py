"""The runs of an ablation, carried out by one worker or several from the queue."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import Trial

from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.study import Study, resolve_study
from seglab.studies.budget import with_budget
from seglab.studies.data import SharedData
from seglab.studies.experiment import FAILED, Outcome, Plan, finished_twin, open_run, show
from seglab.studies.queue import ItemFailed, Queue, Worker, open_storage
from seglab.studies.results import arm_hash
from seglab.studies.tuning import apply_values, tuning_trials
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
from seglab.tracking import RunLog, Store, open_store, tags
from seglab.tracking.errors import StoreUnavailable, is_out_of_space, print_traceback, redact

HEARTBEAT_S = 20
_IDLE_S = 1.0


class ArmRunner:
    """Has plans carried out by the workers of an ablation, each once."""

    def __init__(self, study: Study, parent: RunLog, data: SharedData, workers: int) -> None:
        self.study, self.parent, self.data, self.workers = study, parent, data, workers
        self.stop = StopRequest()
        self._shown: dict[str, int] = {}

    def run(self, plans: Sequence[Plan], values: Mapping[str, Any]) -> dict[str, Outcome]:
        """Carry out what is not done yet; returns what became of each plan, by its run's name.

        Args:
            plans: in the order in which they are begun.
            values: tuned values of each arm; empty while the tuning itself runs.

        Raises:
            KeyboardInterrupt: stopped by the user, all in good order.
        """
        if not plans:
            return {}
        store, since = self.parent.store, datetime.now()
        study = open_queue(self.study, store, self.parent.run_id)
        own = Worker.register(store.folder)
        queue = Queue(study, own, since)
        task = Task(
            work=work,
            document=self.study.document,
            parent_run_id=self.parent.run_id,
            study_name=study.study_name,
            since=since.isoformat(),
            threads=share_of_threads(self.workers, self.study.run.train.threads),
            values={"arms": values, "is_tuning": plans[0].kind == tags.TUNING},
        )
        try:
            if self.workers == 1:
                with self.stop.listening(), suppress(Interrupted):
                    worker = ArmWorker(plans, queue, store, self.data, self.stop, task.threads)
                    while not self.stop() and worker.next():
                        self._show(plans, queue)
            else:
                gpus = visible_gpus(self.study.run.train.device)
                run_workers(task, self.workers, gpus, self.stop, lambda: self._show(plans, queue))
        finally:
            own.close()
            for run in store.find_runs(parent_run_id=self.parent.run_id, statuses=["RUNNING"]):
                store.mark_interrupted(run.run_id, "its worker died")
        if self.stop.interrupts:
            raise KeyboardInterrupt
        return self._outcomes(plans, queue)

    def _show(self, plans: Sequence[Plan], queue: Queue) -> None:
        """Show on the parent how far the ablation is."""
        words = [state.word for state in queue.states().values()]
        counts = {"seglab.finished": words.count("done"), "seglab.failed": words.count("failed")}
        if counts != self._shown:  # asked twice a second, and each answer would be a transaction
            self._shown = counts
            self.parent.tags(counts)

    def _outcomes(self, plans: Sequence[Plan], queue: Queue) -> dict[str, Outcome]:
        states = queue.states()
        found: dict[str, Outcome] = {}
        for plan in plans:
            state = states.get(item_key(plan))
            twin = None
            with suppress(UserError):  # an arm whose data cannot be opened has no run either
                twin = finished_twin(plan, self.parent.store, self.data.of(plan.config))
            if twin is not None:
                is_old = state is None or state.last is None or state.last.datetime_start is None
                reused = is_old or state.last.datetime_start < queue.since  # type: ignore
                found[plan.run_name] = replace(twin, reused=bool(reused))
            else:
                error = "not done" if state is None else state.error
                fault = state is not None and state.last is not None
                our_fault = bool(fault and state.last.user_attrs.get(OUR_FAULT))  # type: ignore
                found[plan.run_name] = plan.outcome(
                    "", FAILED, {}, error=error, our_fault=our_fault
                )
        return found


OUR_FAULT = "our_fault"
"""User attribute of a trial: it failed by an exception that no user can correct."""


def item_key(plan: Plan) -> str:
    """Key of a plan in the queue: what it trains."""
    return f"{plan.run_name} · {plan.config.hash()}"


def open_queue(study: Study, store: Store, parent_run_id: str) -> optuna.Study:
    """Open the Optuna study that holds the items of an ablation, made if absent."""
    storage = open_storage(study.storage, store.folder, HEARTBEAT_S)
    return optuna.create_study(
        storage=storage,
        study_name=f"{study.name} · {parent_run_id}",
        direction="maximize",
        load_if_exists=True,
    )


def work(task: Task, stop: Callable[[], bool]) -> int:
    """Carry out plans in a process of its own until none is left.

    Returns:
        ``DONE``, or ``SPENT`` if this process should do no more of them.
    """

    study, store = with_budget(resolve_study(task.document)), open_store()
    queue_study = open_queue(study, store, task.parent_run_id)
    own = Worker.register(store.folder)
    if task.values["is_tuning"]:
        tuning = tuning_trials(study, task.parent_run_id)
        plans = [trial.plan for trials in tuning.values() for trial in trials]
    else:
        hashes = {arm: arm_hash(config) for arm, config in study.arms.items()}
        study = with_values(study, task.values["arms"])
        plans = list(child_plans(study, hashes, task.parent_run_id))
    try:
        queue = Queue(queue_study, own, datetime.fromisoformat(task.since))
        data = SharedData(warn=False)
        worker = ArmWorker(plans, queue, store, data, stop, task.threads)
        while not stop() and worker.next():
            if not worker.is_fit:
                return SPENT
        return DONE
    finally:
        own.close()


@dataclass
class ArmWorker:
    """Does the plans of an ablation, one at a time."""

    plans: Sequence[Plan]
    queue: Queue
    store: Store
    data: SharedData
    stop: Callable[[], bool]
    threads: int
    is_fit: bool = True
    """Whether this process can do another plan, see ``SearchWorker``."""

    def next(self) -> bool:
        """Do the next plan, or wait while others are at work; False where none is left."""
        known = {item_key(plan): plan for plan in self.plans}
        if self.queue.run_next(known, self._objective, lambda key: ({}, {})):
            return True
        if not self.queue.is_active():
            return False
        time.sleep(_IDLE_S)
        return True

    def _objective(self, trial: Trial, key: str) -> float:
        plan = next((plan for plan in self.plans if item_key(plan) == key), None)
        if plan is None:
            raise ItemFailed("it belongs to an earlier state of the experiment file")
        try:
            return self._train(plan)
        except (StoreUnavailable, KeyboardInterrupt):
            raise
        except (UserError, TrainingDiverged) as error:
            reason = str(error)
        except Exception as error:  # one broken arm must not end the others
            if is_out_of_space(error):
                raise
            print_traceback()
            self.is_fit = False
            trial.set_user_attr(OUR_FAULT, True)
            reason = redact(f"{type(error).__name__}: {error}")
        print(f"{plan.run_name} failed: {reason}", file=sys.stderr)
        raise ItemFailed(reason)

    def _train(self, plan: Plan) -> float:
        if self.threads:
            train = plan.config.train.model_copy(update={"threads": self.threads})
            plan = replace(plan, config=plan.config.model_copy(update={"train": train}))
        data = self.data.of(plan.config)
        outcome = finished_twin(plan, self.store, data)
        if outcome is None:
            with open_run(plan, self.store, data) as run:
                for result in run.epochs():
                    show(plan, result)
                    if self.stop() and not result.is_last:
                        raise Interrupted
                outcome = run.conclude()
        dice = outcome.metrics.get("val/dice", 0.0)
        return dice if dice == dice else 0.0


def with_values(study: Study, chosen: Mapping[str, Any]) -> Study:
    """Lay the tuned values of each arm over its config."""
    if not chosen:
        return study
    arms = {
        arm: apply_values(config, arm, chosen[arm]).model_copy(update={"seed": config.seed})
        for arm, config in study.arms.items()
    }
    return replace(study, arms=arms)


def child_plans(study: Study, hashes: Mapping[str, str], parent_run_id: str) -> Iterator[Plan]:
    """Every run of the ablation: all arms with the first seed and fold, then with the next.

    In this order an ablation that is stopped early still compares every arm.
    """
    for seed in study.seeds:
        for fold in study.folds:
            for arm in study.arms:
                config = study.with_seed(arm, seed)
                split = config.split.model_copy(update={"fold": fold})
                own = {tags.ARM_HASH: hashes[arm], tags.FOLD: str(fold)}
                plan = config.model_copy(update={"split": split})
                yield Plan(plan, arm, parent_run_id=parent_run_id, tags=own)

"""Arms × seeds × folds under one parent run, each child trained once and compared at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from filelock import FileLock
from optuna.trial import Trial

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError, as_warning
from seglab.core.machine import is_locked, tell
from seglab.core.study import MARGIN, Study
from seglab.data.open import StudyData
from seglab.data.splits import training_patients
from seglab.evaluation.comparison import limits_ahead
from seglab.studies.comparison import compare_ablation
from seglab.studies.data import SharedData, share_patients
from seglab.studies.experiment import (
    FAILED,
    FINISHED,
    Interrupted,
    Outcome,
    Plan,
    finished_twin,
    tell_other_code,
    train,
    train_one,
)
from seglab.studies.queue import OUR_FAULT, NotOurs, Params, State, one_at_a_time, open_queue
from seglab.studies.report.page import log_ablation_report, report_experiment
from seglab.studies.report.sections import verdict_text
from seglab.studies.results import arm_hash, collect
from seglab.studies.tuning import best_values, plans_of, tuning_plans
from seglab.studies.workers import Context, run_items, with_threads
from seglab.tracking import tags
from seglab.tracking.environment import code_hash
from seglab.tracking.run import RunLog, resume_run, start_run
from seglab.tracking.store import RunInfo, Store

MAX_REASON = 300
CONFIRMATION = "-confirmation"
"""Ends the name of the experiment that confirms a search."""


@dataclass(frozen=True)
class StudyOutcome:
    """What a YAML came to."""

    experiment: str
    parent_run_id: str | None
    runs: Sequence[Outcome]
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of ``run_experiment.py --json``."""
        return {**vars(self), "runs": [run.to_json() for run in self.runs]}


def run_study(
    study: Study,
    store: Store,
    *,
    fresh: bool = False,
    confirms: str | None = None,
    workers: int = 1,
    deadline: float | None = None,
) -> StudyOutcome:
    """Train everything the study names.

    A single run is its own parent; while another process of this machine trains the same, its
    end is waited for. In an ablation a failed arm is reported and the others go on; other
    processes that run the same share its runs.

    ``fresh`` trains again what is trained already; ``confirms`` is the id of the search whose best
    trials are the arms. At ``deadline``, of ``time.monotonic``, an ablation is interrupted, to be
    continued.

    Raises:
        UserError: the data cannot be used, or the only run failed.
        Interrupted: the time was up.
    """
    study = share_patients(study)
    if study.is_ablation or len(study.folds) > 1:
        return _run_ablation(study, store, fresh, confirms, workers, deadline)
    ((arm, config),) = study.arms.items()
    plan = Plan(config, arm)
    with nullcontext() if fresh else _run_lock(plan.config, store):
        return StudyOutcome(study.name, None, [train_one(plan, store, fresh=fresh)])


def _run_lock(config: RunConfig, store: Store) -> FileLock:
    """Lock of the only run of an experiment; says so where another process trains it."""
    asked = f"{store.uri} {config.name} {config.data.root.resolve()} {config.hash()}"
    path = store.folder / "locks" / f"{hashlib.sha256(asked.encode()).hexdigest()[:12]}.lock"
    if is_locked(path):
        tell(
            f"another process trains '{config.name}' with the same settings: waiting for its "
            "result (--fresh would train it a second time)"
        )
    return FileLock(path)


def _run_ablation(
    study: Study,
    store: Store,
    fresh: bool,
    confirms: str | None,
    workers: int,
    deadline: float | None,
) -> StudyOutcome:
    tuning_plans(study, "")  # refuses a space that an arm does not fit before anything starts
    data = SharedData()
    # The baseline's data names the parent: it stays when arms are added or moved.
    reference = data.of(study.reference)
    if not fresh and (done := find_finished(study, store, data)) is not None:
        return done
    for told in limits_ahead(study, len(reference.split.train), len(reference.split.val)):
        tell(f"warning: {told}")
    with one_at_a_time(study, store.folder):
        parent = open_parent(study, store, reference, fresh=fresh, is_confirmation=bool(confirms))
        hashes = {arm: arm_hash(config) for arm, config in study.arms.items()}
        given = study.document.get("baseline")
        baseline = given or store.get_run(parent.run_id).tags.get(tags.BASELINE)
        parent.tags(
            {
                tags.ARMS: _added(parent, tags.ARMS, hashes),
                tags.BASELINE: str(baseline or next(iter(study.arms))),
                tags.BUDGET: study.budget.per,
                tags.MARGIN: str(study.margin),
                tags.CONFIRMS: confirms,
                tags.FACTORS: asdict(study.design) if study.design else None,
            }
        )
    with parent:
        values = {}
        if tuning := tuning_plans(study, parent.run_id):
            tried = iter(_carry_out(study, parent, data, workers, None, deadline))
            values = {
                arm: best_values(plans, [next(tried) for _ in plans])
                for arm, plans in tuning.items()
            }
            parent.tags({tags.TUNED: _added(parent, tags.TUNED, values)})
        runs = _carry_out(study, parent, data, workers, values, deadline)
        finished = sum(run.status == FINISHED for run in runs)
        told = f"{finished} of {len(runs)} runs finished; comparing them and writing the report"
        tell(told)
        # Some fail before a run can carry it; the first of an arm is told.
        errors = {run.arm: run.error[:MAX_REASON] for run in reversed(runs) if run.error}
        reasons = dict.fromkeys(study.arms, "") | errors
        parent.tags({tags.FAILURES: _added(parent, tags.FAILURES, reasons)})
        with one_at_a_time(study, store.folder):
            report = _report(store, parent.run_id, parent)
        if not finished:
            parent.fail("no arm finished")
        parent.finish(only_looked=all(run.reused for run in runs))
        return StudyOutcome(study.name, parent.run_id, runs, report)


def find_finished(study: Study, store: Store, data: SharedData) -> StudyOutcome | None:
    """What this ablation came to, if all of it is done: its runs and their parent stay as is."""
    hashes = {arm: arm_hash(config) for arm, config in study.arms.items()}
    identity = _identity(study, data.of(study.reference))
    if given := study.document.get("baseline"):
        identity[tags.BASELINE] = str(given)
    for parent in store.find_runs(study.name, identity, ["FINISHED"]):
        recorded = json.loads(parent.tags.get(tags.ARMS, "{}"))
        if tags.VERDICTS not in parent.tags or not hashes.items() <= recorded.items():
            continue
        if float(parent.tags.get(tags.MARGIN, MARGIN)) != study.margin:
            continue
        values = json.loads(parent.tags.get(tags.TUNED, "{}"))
        plans = plans_of(study, parent.run_id, values)
        found = (find_twin(plan, store, data) for plan in plans.values())
        runs = [one for one in found if one is not None]
        if len(runs) == len(plans):
            report = _report(store, parent.run_id)
            return StudyOutcome(study.name, parent.run_id, runs, report)
    return None


def find_twin(plan: Plan, store: Store, data: SharedData) -> Outcome | None:
    """The finished run that this plan would only repeat, if there is one."""
    with suppress(UserError):  # an arm whose data cannot be opened has no run either
        return finished_twin(plan, store, data.of(plan.config))
    return None


def _added(parent: RunLog, tag: str, arms: Mapping[str, Any]) -> str:
    """What a tag says of every arm, with those on record that are not run now."""
    recorded = parent.store.get_run(parent.run_id).tags.get(tag, "{}")
    return json.dumps({**json.loads(recorded), **arms})


def open_parent(
    study: Study, store: Store, data: StudyData, *, fresh: bool, is_confirmation: bool = False
) -> RunLog:
    """Find the parent run of this ablation, on the same data and code, or start one.

    Arms and seeds may be added later: they join the same parent, which keeps those that this
    study does not have. What all arms share may not change.
    """
    for config in study.arms.values():  # refuses more training patients than there are
        training_patients(data.split, config)
    identity = _identity(study, data)
    if not fresh:
        if (found := find_shared_parent(study, store, data)) is not None:
            return resume_run(store, found.run_id)
        tell_other_code(store, study.name, identity)
    name = f"{study.name} · ablation"
    if is_confirmation:
        name = f"{study.name.removesuffix(CONFIRMATION)} · confirmation"
    return start_run(store, study.name, name, identity)


def find_shared_parent(study: Study, store: Store, data: StudyData) -> RunInfo | None:
    """Find the parent run that this ablation joins, if there is one."""
    for run in store.find_runs(study.name, _identity(study, data)):
        # Processes that share a queue share the parent too, also those of several machines.
        if study.storage or store.in_use(run.run_id) or store.may_continue(run):
            return run
    return None


def _identity(study: Study, data: StudyData) -> dict[str, str]:
    """Tags that make two parent runs the same ablation."""
    return {
        tags.KIND: "ablation",
        tags.CONFIG_HASH: shared_hash(study),
        tags.SPLIT_HASH: data.split.hash,
        tags.DATA_HASH: data.cache.data_hash,
        tags.CODE_HASH: code_hash(),
    }


def shared_hash(study: Study) -> str:
    """Hash of what all arms have in common: the config beneath them, budget and tuning."""
    parts = [
        arm_hash(study.run),
        study.budget.model_dump_json(),
        study.tune.model_dump_json() if study.tune else "",
        str(study.folds),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _report(store: Store, parent: str, log: RunLog | None = None) -> str | None:
    """Compare and report; runs that cannot be compared are still trained and logged."""
    with as_warning("there is no report"):
        result = compare_ablation(collect(store, store.get_run(parent)))
        page = (
            log_ablation_report(log, result)
            if log
            else report_experiment(store, result.ablation.experiment, result)
        )
        tell(verdict_text(result))
        return str(page)
    return None


def _carry_out(
    study: Study,
    parent: RunLog,
    data: SharedData,
    workers: int,
    values: Mapping[str, Any] | None,
    deadline: float | None,
) -> list[Outcome]:
    """Do what is not done yet, each run once; what became of each, in the order of the plans.

    ``values`` are the tuned ones of each arm; None does the tuning runs.
    """
    queue = open_queue(study, parent.store.folder, f"{study.name} · {parent.run_id}")
    context = run_items(
        ArmItems, study, parent, queue, data, workers, values=values, deadline=deadline
    )
    if context.stop():
        raise Interrupted
    states = context.queue.states()
    plans = plans_of(study, parent.run_id, values).items()
    return [_outcome(plan, states.get(key), context) for key, plan in plans]


def _outcome(plan: Plan, state: State | None, context: Context) -> Outcome:
    if (twin := find_twin(plan, context.store, context.data)) is not None:
        return replace(twin, reused=state is None or state.last.number in context.queue.before)
    if state is None:
        return plan.outcome("", FAILED, {}, error="not done")
    our_fault = OUR_FAULT in state.last.user_attrs
    return plan.outcome("", FAILED, {}, error=state.error, our_fault=our_fault)


class ArmItems:
    """The runs of an ablation, or of its tuning, as items of a queue."""

    def __init__(self, context: Context) -> None:
        task = context.task
        self._context = context
        self._plans = plans_of(context.study, task.parent_run_id, task.values)

    def keys(self, states: Mapping[str, State]) -> Iterable[str]:
        """What each trains, in the order in which they are begun."""
        return self._plans

    def new(self, key: str) -> tuple[Params, Mapping[str, Any]]:
        """A run has no parameters of Optuna's."""
        return {}, {}

    def do(self, trial: Trial, key: str) -> float:
        """Train a run, or find it done; returns its Dice, 0 where there is none."""
        if key not in self._plans:
            raise NotOurs  # of the other phase, or of a machine with other arms
        plan = self._plans[key]
        try:
            dice = self._train(plan, 1 + list(self._plans).index(key)).metrics.get("val/dice", 0.0)
        except (UserError, TrainingDiverged) as error:
            tell(f"{plan.run_name} failed: {error}")
            raise
        return dice if dice == dice else 0.0

    def _train(self, plan: Plan, number: int) -> Outcome:
        context = self._context
        plan = replace(plan, config=with_threads(plan.config, context.task.threads))
        data = context.data.of(plan.config)
        if (twin := finished_twin(plan, context.store, data)) is not None:
            return twin
        tell(f"run {number} of {len(self._plans)}: {plan.run_name}")
        return train(plan, context.store, data, stop=context.stop)

"""Arms × seeds × folds under one parent run, each child trained once and compared at the end."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from seglab.core.errors import UserError
from seglab.core.study import Study
from seglab.studies.alone import alone
from seglab.studies.budget import with_budget
from seglab.studies.children import (
    ARM_HASH,
    ARMS,
    BASELINE,
    BUDGET,
    CONFIRMS,
    FAILURES,
    FOLD,
    SUFFIX,
    TUNED,
    arm_hash,
)
from seglab.studies.data import SharedData, StudyData
from seglab.studies.experiment import FAILED, FINISHED, Outcome, Plan, train_one, try_one
from seglab.studies.report import report_ablation
from seglab.studies.tuning import apply_values, tune_arms, tuning_trials
from seglab.tracking import RunLog, Store, code_hash, environment_tags, resume_run, start_run

MAX_REASON = 300


@dataclass(frozen=True)
class StudyOutcome:
    """What a YAML came to."""

    experiment: str
    parent_run_id: str | None
    runs: Sequence[Outcome]
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of ``run_experiment.py --json``."""
        return {
            "experiment": self.experiment,
            "parent_run_id": self.parent_run_id,
            "runs": [run.to_json() for run in self.runs],
            "report": self.report,
        }


def run_study(
    study: Study, store: Store, *, fresh: bool = False, confirms: str | None = None
) -> StudyOutcome:
    """Train everything the study names.

    A single run is its own parent. In an ablation a failed arm is reported and
    the others go on. While another process trains the same, its end is waited for,
    unless ``fresh`` asks for a second training. ``confirms`` names the search whose
    best trials are the arms.

    Raises:
        UserError: the data cannot be used, or the only run failed.
    """
    study = with_budget(study)
    with alone(study, store, wait=not fresh):
        return _run_study(study, store, fresh=fresh, confirms=confirms)


def _run_study(study: Study, store: Store, *, fresh: bool, confirms: str | None) -> StudyOutcome:
    if study.is_ablation or len(study.folds) > 1:
        return _run_ablation(study, store, fresh=fresh, confirms=confirms)
    (arm,) = study.arms
    outcome = train_one(Plan(study.with_seed(arm, study.seeds[0]), arm), store, fresh=fresh)
    return StudyOutcome(study.name, None, [outcome])


def _run_ablation(study: Study, store: Store, *, fresh: bool, confirms: str | None) -> StudyOutcome:
    tuning_trials(study, "")  # refuses a space that an arm does not fit before anything starts
    data = SharedData()
    # The baseline's data names the parent: it stays when arms are added or moved.
    with open_parent(study, store, data.of(study.reference), fresh=fresh) as parent:
        hashes = {arm: arm_hash(config) for arm, config in study.arms.items()}
        parent.tags(_parent_tags(study, hashes) | ({CONFIRMS: confirms} if confirms else {}))

        def run(plan: Plan) -> Outcome:
            try:
                opened = data.of(plan.config)
            except UserError as error:  # an arm's own data block must not end the others
                print(f"{plan.run_name} failed: {error}", file=sys.stderr)
                return plan.outcome("", FAILED, {}, error=str(error))
            return try_one(plan, store, opened, fresh=fresh)

        study = _with_tuned(study, tune_arms(study, parent.run_id, run), parent)
        runs: list[Outcome] = []
        for plan in child_plans(study, hashes, parent.run_id):
            runs.append(run(plan))
            log_progress(parent, runs)
        parent.tags({FAILURES: json.dumps(failures(runs))})
        report = _report(store, parent, runs)
        if not any(outcome.status == FINISHED for outcome in runs):
            parent.fail("no arm finished")
        return StudyOutcome(study.name, parent.run_id, runs, report)


def open_parent(study: Study, store: Store, data: StudyData, *, fresh: bool) -> RunLog:
    """Find the parent run of this ablation, on the same data and code, or start one.

    Arms and seeds may be added to an ablation later: they join the same parent.
    What all arms share may not change, or they would no longer differ in one thing only.
    """
    identity = {
        "seglab.kind": "ablation",
        "seglab.config_hash": shared_hash(study),
        "seglab.split_hash": data.split.hash,
        "seglab.data_hash": data.cache.data_hash,
        "seglab.code_hash": code_hash(),
    }
    for run in [] if fresh else store.find_runs(study.name, identity):
        if store.may_continue(run):
            with suppress(UserError):  # another process was faster
                return resume_run(store, run.run_id)
    return start_run(store, study.name, f"{study.name}{SUFFIX}", {**environment_tags(), **identity})


def shared_hash(study: Study) -> str:
    """Hash of what all arms have in common: the config beneath them, budget and tuning."""
    parts = [
        arm_hash(study.run),
        study.budget.model_dump_json(),
        study.tune.model_dump_json() if study.tune else "",
        str(study.folds),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _parent_tags(study: Study, hashes: Mapping[str, str]) -> dict[str, str]:
    return {
        ARMS: json.dumps(hashes),
        BASELINE: study.baseline or next(iter(study.arms)),
        BUDGET: study.budget.per,
    }


def _with_tuned(study: Study, chosen: Mapping[str, Any], parent: RunLog) -> Study:
    if not chosen:
        return study
    parent.tags({TUNED: json.dumps(chosen)})
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
                tags = {ARM_HASH: hashes[arm], FOLD: str(fold)}
                plan = config.model_copy(update={"split": split})
                yield Plan(plan, arm, parent_run_id=parent_run_id, tags=tags)


def log_progress(parent: RunLog, runs: Sequence[Outcome]) -> None:
    """Show on the parent how far the ablation is."""
    finished = sum(run.status == FINISHED for run in runs)
    parent.tags({"seglab.finished": finished, "seglab.failed": len(runs) - finished})


def failures(runs: Sequence[Outcome]) -> dict[str, str]:
    """The first reason of each arm that failed; some fail before there is a run to carry it."""
    reasons: dict[str, str] = {}
    for run in runs:
        if run.error:
            reasons.setdefault(run.arm, run.error[:MAX_REASON])
    return reasons


def _report(store: Store, parent: RunLog, runs: Sequence[Outcome]) -> str | None:
    """Compare and report; runs that cannot be compared are still trained and logged."""
    try:
        written = report_ablation(store, store.get_run(parent.run_id), log=parent)
    except UserError as error:
        print(f"no report: {error}", file=sys.stderr)
        return None
    print(written.text, file=sys.stderr)
    return str(written.folder / "report.html")

"""Arms × seeds × folds under one parent run, each child trained once and compared at the end."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from seglab.core.errors import first_line
from seglab.core.study import Study
from seglab.studies.arms import ArmRunner, child_plans, with_values
from seglab.studies.budget import with_budget
from seglab.studies.data import SharedData, StudyData, share_patients
from seglab.studies.experiment import (
    FINISHED,
    Outcome,
    Plan,
    train_one,
)
from seglab.studies.report import report_ablation
from seglab.studies.results import arm_hash
from seglab.studies.tuning import best_values, tuning_trials
from seglab.tracking import (
    RunInUse,
    RunLog,
    Store,
    code_hash,
    environment_tags,
    resume_run,
    start_run,
    tags,
)

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
    study: Study,
    store: Store,
    *,
    fresh: bool = False,
    confirms: str | None = None,
    workers: int = 1,
) -> StudyOutcome:
    """Train everything the study names.

    A single run is its own parent. In an ablation a failed arm is reported and
    the others go on. While another process of this machine trains the same, its end is waited
    for, unless ``fresh`` asks for a second training.

    Args:
        study: arms, seeds, folds.
        store: where the runs are logged.
        fresh: train again what is trained already.
        confirms: the search whose best trials are the arms.
        workers: processes that share out the runs of an ablation.

    Raises:
        UserError: the data cannot be used, or the only run failed.
    """
    study = with_budget(share_patients(study))
    with _lock(study, store, wait=not fresh):
        if study.is_ablation or len(study.folds) > 1:
            return _run_ablation(study, store, fresh=fresh, confirms=confirms, workers=workers)
        (arm,) = study.arms
        outcome = train_one(Plan(study.with_seed(arm, study.seeds[0]), arm), store, fresh=fresh)
        return StudyOutcome(study.name, None, [outcome])


@contextmanager
def _lock(study: Study, store: Store, *, wait: bool) -> Iterator[None]:
    """Hold the study for this process, once no other of this machine does."""
    settings = {arm: [str(c.data.root.resolve()), c.hash()] for arm, c in study.arms.items()}
    asked = json.dumps([store.uri, study.name, settings, study.seeds, study.folds])
    digest = hashlib.sha256(asked.encode()).hexdigest()[:12]
    folder = store.folder / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{digest}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        if wait:
            print(
                f"another process trains '{study.name}' with the same settings: waiting for its "
                "result (--fresh would train it a second time)",
                file=sys.stderr,
            )
            lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()


def _run_ablation(
    study: Study, store: Store, *, fresh: bool, confirms: str | None, workers: int
) -> StudyOutcome:
    tuning_trials(study, "")  # refuses a space that an arm does not fit before anything starts
    data = SharedData()
    # The baseline's data names the parent: it stays when arms are added or moved.
    with open_parent(study, store, data.of(study.reference), fresh=fresh) as parent:
        hashes = {arm: arm_hash(config) for arm, config in study.arms.items()}
        parent.tags(_parent_tags(study, hashes) | ({tags.CONFIRMS: confirms} if confirms else {}))
        runner = ArmRunner(study, parent, data, workers)
        tuning = tuning_trials(study, parent.run_id)
        tried = runner.run([trial.plan for trials in tuning.values() for trial in trials], {})
        values = {
            arm: best_values(trials, [tried[trial.plan.run_name] for trial in trials])
            for arm, trials in tuning.items()
        }
        if values:
            parent.tags({tags.TUNED: json.dumps(values)})
        plans = list(child_plans(with_values(study, values), hashes, parent.run_id))
        found = runner.run(plans, values)
        runs = [found[plan.run_name] for plan in plans]
        parent.tags({tags.FAILURES: json.dumps(failures(runs))})
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
        tags.KIND: "ablation",
        tags.CONFIG_HASH: shared_hash(study),
        tags.SPLIT_HASH: data.split.hash,
        tags.DATA_HASH: data.cache.data_hash,
        tags.CODE_HASH: code_hash(),
    }
    for run in [] if fresh else store.find_runs(study.name, identity):
        # Machines that share a queue share the parent too, whoever began it.
        if study.storage is not None or store.may_continue(run):
            with suppress(RunInUse):
                return resume_run(store, run.run_id)
    return start_run(
        store, study.name, f"{study.name} · ablation", {**environment_tags(), **identity}
    )


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
        tags.ARMS: json.dumps(hashes),
        tags.BASELINE: study.baseline or next(iter(study.arms)),
        tags.BUDGET: study.budget.per,
    }


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
    except Exception as error:  # whatever it is, the runs are finished
        print(f"no report: {first_line(error)}", file=sys.stderr)
        return None
    print(written.text, file=sys.stderr)
    return str(written.folder / "report.html")

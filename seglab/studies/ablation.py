"""Arms × seeds under one parent run, each child trained once and compared at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seglab.core.study import Study
from seglab.studies.data import StudyData, open_data
from seglab.studies.experiment import FINISHED, Outcome, Plan, train_one, try_one
from seglab.tracking import RunLog, Store, environment_tags, resume_run, start_run


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


def run_study(study: Study, store: Store, *, fresh: bool = False) -> StudyOutcome:
    """Train everything the study names.

    A single run is its own parent. In an ablation a failed arm is reported and
    the others go on.

    Raises:
        UserError: the data cannot be used, or the only run failed.
    """
    if study.is_ablation:
        return _run_ablation(study, store, fresh=fresh)
    (arm,) = study.arms
    outcome = train_one(Plan(study.with_seed(arm, study.seeds[0]), arm), store, fresh=fresh)
    return StudyOutcome(study.name, None, [outcome])


def _run_ablation(study: Study, store: Store, *, fresh: bool) -> StudyOutcome:
    data = _Shared()
    parent = open_parent(study, store, data.of(study, next(iter(study.arms))), fresh=fresh)
    with parent:
        runs = []
        for plan in child_plans(study, parent.run_id):
            runs.append(try_one(plan, store, data.of(study, plan.arm), fresh=fresh))
            log_progress(parent, runs)
        return StudyOutcome(study.name, parent.run_id, runs)


class _Shared:
    """Opens the cache of each distinct ``data`` block once."""

    def __init__(self) -> None:
        self._opened: dict[str, StudyData] = {}

    def of(self, study: Study, arm: str) -> StudyData:
        config = study.arms[arm]
        key = f"{config.data.model_dump_json()}{config.split.model_dump_json()}"
        if key not in self._opened:
            self._opened[key] = open_data(config)
        return self._opened[key]


def open_parent(study: Study, store: Store, data: StudyData, *, fresh: bool) -> RunLog:
    """Find the parent run of this ablation, on the same data and code, or start one.

    Arms may be added to an ablation later: they join the same parent.
    """
    identity = {
        "seglab.kind": "ablation",
        "seglab.split_hash": data.split.hash,
        "seglab.data_hash": data.cache.data_hash,
        "seglab.code_hash": environment_tags()["seglab.code_hash"],
    }
    for run in [] if fresh else store.find_runs(study.name, identity):
        if not store.in_use(run.run_id):
            return resume_run(store, run.run_id)
    return start_run(
        store, study.name, f"{study.name} · ablation", {**environment_tags(), **identity}
    )


def child_plans(study: Study, parent_run_id: str) -> Iterator[Plan]:
    """Every run of the ablation: all arms with the first seed, then all with the next.

    In this order an ablation that is stopped early still compares every arm.
    """
    for seed in study.seeds:
        for arm in study.arms:
            yield Plan(study.with_seed(arm, seed), arm, parent_run_id=parent_run_id)


def log_progress(parent: RunLog, runs: Sequence[Outcome]) -> None:
    """Show on the parent how far the ablation is."""
    finished = sum(run.status == FINISHED for run in runs)
    parent.metrics(
        {"progress/finished": finished, "progress/failed": len(runs) - finished}, step=len(runs)
    )

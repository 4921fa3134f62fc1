"""A plan of an ablation written before its first run, and what was done otherwise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglab.core.errors import UserError
from seglab.evaluation.comparison import LEVEL
from seglab.evaluation.statistics import RESAMPLES
from seglab.tracking import tags
from seglab.tracking.artifacts import read_artifact
from seglab.tracking.store import RunInfo, Store

FILE = "plan.json"
ANALYSIS: Mapping[str, Any] = {
    "primary_metric": "val/dice: of a patient over all slices on the native grid",
    "analysis": "paired over patients, seeds averaged; bootstrap-t and between-seed variance, "
    f"{RESAMPLES} resamples; Holm over arms; equivalence by two one-sided tests",
    "level": LEVEL,
}
"""What this version does; see docs/statistics.md."""
TAGS = {
    "shared_config_hash": tags.CONFIG_HASH,
    "split_hash": tags.SPLIT_HASH,
    "data_hash": tags.DATA_HASH,
    "code_hash": tags.CODE_HASH,
}
"""What a plan says of the parent run: key to tag."""
ARM_DATA = "arm_data_hashes"
"""Key of a plan whose arms differ in modalities: ``data_hash`` is of the baseline's."""


@dataclass(frozen=True)
class AnalysisPlan:
    """What was planned, as the store and this machine's file hold it."""

    hash: str
    """SHA-256 of the file, from the tag of the run it was logged with."""
    content: Mapping[str, Any]
    changes: tuple[str, ...]
    """Places where the plan is not what the hash says."""

    def deviations(
        self,
        parent: RunInfo,
        baseline: str,
        margin: float,
        seeds: Mapping[str, set[int]],
        folds: set[int],
        data: Mapping[str, set[str | None]],
    ) -> list[str]:
        """List what was not done as planned.

        Of every arm ``seeds`` are the complete ones, and ``data`` the hashes of its runs' data.
        """
        done = {**ANALYSIS, "baseline": baseline, "margin": margin, "folds": sorted(folds)}
        done |= {key: parent.tags.get(tag) for key, tag in TAGS.items()}
        told = [
            f"{key.replace('_', ' ')} is {value}, planned was {self.content.get(key)}"
            for key, value in done.items()
            if value != self.content.get(key)
        ]
        told += [
            f"arm '{arm}' is of other data"
            for arm, planned in self.content.get(ARM_DATA, {}).items()
            if data.get(arm, {planned}) != {planned}
        ]
        arms = json.loads(parent.tags.get(tags.ARMS, "{}"))
        return [*self.changes, *told, *self._of_arms(arms, seeds)]

    def _of_arms(self, arms: Mapping[str, str], seeds: Mapping[str, set[int]]) -> Iterator[str]:
        planned, wanted = self.content.get("arms", {}), set(self.content.get("seeds", ()))
        for arm, config in arms.items():
            if arm not in planned:
                yield f"arm '{arm}' was added"
            elif planned[arm] != config:
                yield f"arm '{arm}' has another config"
        for arm in planned:
            if arm not in seeds:
                yield f"arm '{arm}' has no finished run"
        for seed in sorted(wanted.union(*seeds.values())):
            is_planned = seed in wanted
            those = [arm for arm, done in seeds.items() if (seed in done) != is_planned]
            if those:
                where = "" if len(those) == len(seeds) else f" in {', '.join(those)}"
                yield f"seed {seed} was {'dropped' if is_planned else 'added'}{where}"


def plan_file(store: Store, experiment: str) -> Path:
    """Where this machine keeps the plan of an experiment."""
    return store.folder / "plans" / f"{experiment}.json"


def find_plan(store: Store, experiment: str, parent: RunInfo | None = None) -> AnalysisPlan | None:
    """Find the plan of an ablation: logged with its parent, or the newest that was made before it.

    Without ``parent`` it is the newest of the experiment.
    """
    planned = [
        run
        for run in store.find_runs(experiment, {tags.KIND: "ablation"})
        if tags.PLAN in run.tags and (parent is None or run.start_time <= parent.start_time)
    ]
    if not planned:
        return None
    run = max(planned, key=lambda run: parent is not None and run.run_id == parent.run_id)
    made, changes, logged = run.tags[tags.PLAN], [], b"{}"
    try:
        logged = read_artifact(store, run, FILE)
    except UserError:
        changes.append(f"{FILE} of run {run.run_id} is gone")
    here = plan_file(store, experiment)
    if hashlib.sha256(logged).hexdigest() != made and not changes:
        changes.append(f"{FILE} of run {run.run_id} was changed after it was made")
    if here.is_file() and hashlib.sha256(here.read_bytes()).hexdigest() != made:
        changes.append(f"{here} was changed after it was made")
    try:
        content = json.loads(logged)
    except ValueError:
        content = {}
    return AnalysisPlan(made, content, tuple(changes))

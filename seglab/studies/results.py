"""The results of an ablation: its arms, their runs, and the scores of every patient."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from seglab.core.config import LOCAL, Data, RunConfig
from seglab.core.errors import UserError
from seglab.core.factors import Design
from seglab.core.study import MARGIN
from seglab.data.names import SYNTHETIC
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import from_csv
from seglab.studies.preregistration import AnalysisPlan, find_plan
from seglab.studies.resolve import find
from seglab.tracking import tags
from seglab.tracking.artifacts import read_artifact
from seglab.tracking.store import RunInfo, Store

Unit = Literal["samples", "seconds"]
"""Of a budget."""
SCORES = "patients_val.csv"
LOCAL_KEYS = frozenset(
    f"data.{key}" for key, field in Data.model_fields.items() if field.json_schema_extra == LOCAL
)


@dataclass(frozen=True)
class ScoredRun:
    """One finished run of an arm."""

    run: RunInfo
    seed: int
    fold: int
    scores: Sequence[PatientScore]


@dataclass(frozen=True)
class Arm:
    """An arm with the seeds that are complete: a finished run for every fold."""

    name: str
    runs: Sequence[ScoredRun]

    @property
    def seeds(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(sorted({one.seed for one in self.runs}))

    @property
    def target(self) -> str:
        """What its runs segment."""
        return target_of(self.runs[0].run)

    def scores(self, seed: int) -> list[PatientScore]:
        """Every patient of one seed, over all folds, in natural order."""
        found = [score for one in self.runs if one.seed == seed for score in one.scores]
        return sorted(found, key=lambda score: score.patient_id)

    def cost(self, metric: str) -> float:
        """Mean of a logged metric over the runs; NaN where one does not have it."""
        values = [one.run.metrics.get(metric, math.nan) for one in self.runs]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Ablation:
    """All that one parent run holds."""

    experiment: str
    parent: RunInfo
    baseline: str
    unit: Unit
    arms: Sequence[Arm]
    """Those with at least one complete seed, in the order of the experiment file."""
    unfinished: Sequence[RunInfo]
    """Runs that failed or were stopped and have no finished twin."""
    trials: Mapping[str, Sequence[RunInfo]]
    """Tuning trials of each arm."""
    warnings: Sequence[str]
    plan: AnalysisPlan | None
    """That was made before the first run."""

    @property
    def design(self) -> Design | None:
        """Of the factors whose levels make the arms."""
        told = self.parent.tags.get(tags.FACTORS)
        return Design(**json.loads(told)) if told else None

    @property
    def margin(self) -> float:
        """Of equivalence, in Dice."""
        return float(self.parent.tags.get(tags.MARGIN, MARGIN))

    @property
    def notice(self) -> str:
        """What must be said of the data: that they are synthetic."""
        return notice_of([one.run for arm in self.arms for one in arm.runs])


def notice_of(runs: Sequence[RunInfo]) -> str:
    """What must be said of the data of some runs; empty where they are of patients."""
    return SYNTHETIC if any(tags.SYNTHETIC in run.tags for run in runs) else ""


def target_of(run: RunInfo) -> str:
    """What a run segments; runs of earlier versions knew the whole tumour only."""
    return run.params.get("data.target", "whole")


def fold_of(run: RunInfo) -> int:
    """The fold that a run validates, from 0; 0 too where there is one validation part."""
    return int(run.tags.get(tags.FOLD, 0))


def arm_hash(config: RunConfig) -> str:
    """Hash of an arm whatever its seed and fold."""
    split = config.split.model_copy(update={"fold": 0})
    return config.model_copy(update={"seed": 0, "split": split}).hash()


def find_parent(store: Store, name: str, kind: Literal["ablation", "sweep"]) -> RunInfo:
    """Find a parent run: the newest of an experiment, or the run of this id.

    A search's confirmation is found by its name only where the experiment has no other.
    """
    found = find(store, name, "experiment", "run")
    runs = found.runs if found.run is None else [found.run]
    parents = [run for run in runs if run.tags.get(tags.KIND) == kind]
    if not parents:
        word = "search" if kind == "sweep" else kind
        says = "holds" if found.run is None else "is"
        raise UserError(f"'{name}' {says} no {word}: name another")
    return min(parents, key=lambda run: tags.CONFIRMS in run.tags)  # they are newest first


def collect(store: Store, parent: RunInfo) -> Ablation:
    """Read every run of an ablation with its scores; a UserError if they cannot be compared."""
    experiment = store.experiments()[parent.experiment_id]
    hashes: dict[str, str] = json.loads(parent.tags.get(tags.ARMS, "{}"))
    found = [
        run
        for run in store.find_runs(parent_run_id=parent.run_id)
        if hashes.get(run.tags.get(tags.TUNES, run.tags.get(tags.ARM, "")))
        == run.tags.get(tags.ARM_HASH)
    ]
    runs = _newest([run for run in found if run.tags.get(tags.KIND) == "train"])
    finished = [run for run in runs if run.status == "FINISHED"]
    _refuse_mixed_data(finished)
    folds = {fold_of(run) for run in runs}
    arms: list[Arm] = []
    warnings: list[str] = []
    reasons = json.loads(parent.tags.get(tags.FAILURES, "{}"))
    for name in hashes:
        mine = [read_scores(store, run) for run in finished if run.tags[tags.ARM] == name]
        arm, dropped = _complete_seeds(name, mine, folds)
        warnings += dropped
        if arm.runs:
            arms.append(arm)
        else:
            reason = reasons.get(name) or "no run of it has finished"
            warnings.append(f"arm '{name}' is not in the comparison: {reason}")
    if not arms:
        raise UserError(f"nothing to compare in '{experiment}': no arm has finished")
    _refuse_other_truth(arms)
    return Ablation(
        experiment=experiment,
        parent=parent,
        baseline=parent.tags.get(tags.BASELINE, arms[0].name),
        unit="seconds" if parent.tags.get(tags.BUDGET) == "seconds" else "samples",
        arms=arms,
        unfinished=[run for run in runs if run.status != "FINISHED"],
        trials={name: [r for r in found if r.tags.get(tags.TUNES) == name] for name in hashes},
        warnings=warnings,
        plan=find_plan(store, experiment, parent),
    )


def read_scores(store: Store, run: RunInfo) -> ScoredRun:
    """Read the scores that a finished run logged."""
    table = read_artifact(store, run, SCORES)
    scores = from_csv(table, f"{SCORES} of run '{run.name}'")
    return ScoredRun(run, int(run.tags[tags.SEED]), fold_of(run), scores)


def _newest(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """Keep one run for each arm, seed and fold: a finished one if there is any, else the newest."""
    kept: dict[tuple[str, str, int], RunInfo] = {}
    for run in sorted(runs, key=lambda run: (run.status != "FINISHED", -run.start_time)):
        place = (run.tags[tags.ARM], run.tags[tags.SEED], fold_of(run))
        kept.setdefault(place, run)
    return list(kept.values())


def _complete_seeds(
    name: str, runs: Sequence[ScoredRun], folds: set[int]
) -> tuple[Arm, Sequence[str]]:
    kept, warnings = [], []
    for seed in sorted({one.seed for one in runs}):
        mine = [one for one in runs if one.seed == seed]
        missing = folds - {one.fold for one in mine}
        if missing:
            warnings.append(f"arm '{name}', seed {seed} is left out: fold {min(missing)} is absent")
        else:
            kept += sorted(mine, key=lambda one: one.fold)
    return Arm(name, kept), warnings


def data_settings(run: RunInfo) -> dict[str, str]:
    """The ``data`` block of a run, on which the hash of its data depends, without paths."""
    return {k: v for k, v in run.params.items() if k.startswith("data.") and k not in LOCAL_KEYS}


def _refuse_mixed_data(runs: Sequence[RunInfo]) -> None:
    """Refuse runs of one fold on different splits, or of one ``data`` block on different data.

    Another target may have other patients: those whose labels tell it.
    """
    known: dict[tuple[str, ...], RunInfo] = {}
    for run in runs:
        settings = data_settings(run)
        for tag, noun, group in (
            (tags.SPLIT_HASH, "splits", f"{fold_of(run)} {target_of(run)}"),
            (tags.DATA_HASH, "data", json.dumps(settings, sort_keys=True)),
        ):
            first = known.setdefault((tag, group), run)
            if first.tags.get(tag) != run.tags.get(tag):
                raise UserError(
                    f"runs '{first.name}' and '{run.name}' are of different {noun} ({tag} "
                    f"{first.tags.get(tag)} and {run.tags.get(tag)}): they cannot be compared"
                )


def _refuse_other_truth(arms: Sequence[Arm]) -> None:
    """Refuse arms of differing ``data`` blocks whose patients do not have the same truth."""
    known: dict[tuple[str, str], tuple[int, int, str]] = {}
    for arm in arms:
        for score in (score for one in arm.runs for score in one.scores):
            told = score.truth_px, score.slices, arm.name
            truth = known.setdefault((score.patient_id, arm.target), told)
            if truth[:2] != (score.truth_px, score.slices):
                raise UserError(
                    f"patient {score.patient_id} has {truth[0]} tumour pixels in {truth[1]} slices "
                    f"in arm '{truth[2]}', {score.truth_px} in {score.slices} in arm '{arm.name}': "
                    "arms must be scored against the same truth"
                )

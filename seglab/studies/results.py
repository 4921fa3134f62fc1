"""The results of an ablation: its arms, their runs, and the scores of every patient."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from seglab.core.config import Data, RunConfig
from seglab.core.errors import UserError
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import read_csv
from seglab.studies.budget import Unit
from seglab.studies.resolve import find
from seglab.tracking import RunInfo, Store, download
from seglab.tracking.tags import (
    ARM,
    ARM_HASH,
    ARMS,
    BASELINE,
    BUDGET,
    CONFIRMS,
    DATA_HASH,
    FAILURES,
    FOLD,
    KIND,
    SEED,
    SPLIT_HASH,
    TUNES,
)

SCORES = "patients_val.csv"
LOCAL_KEYS = frozenset(
    f"data.{key}" for key, field in Data.model_fields.items() if field.json_schema_extra
)


@dataclass(frozen=True)
class Child:
    """One finished run of an arm."""

    run: RunInfo
    seed: int
    fold: int
    scores: Sequence[PatientScore]


@dataclass(frozen=True)
class Arm:
    """An arm with the seeds that are complete: a finished run for every fold."""

    name: str
    children: Sequence[Child]

    @property
    def seeds(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(sorted({child.seed for child in self.children}))

    @property
    def target(self) -> str:
        """What its runs segment."""
        return target_of(self.children[0].run)

    def scores(self, seed: int) -> list[PatientScore]:
        """Every patient of one seed, over all folds, in natural order."""
        found = [s for child in self.children if child.seed == seed for s in child.scores]
        return sorted(found, key=lambda score: score.patient_id)

    def cost(self, metric: str) -> float:
        """Mean of a logged metric over the runs; NaN where one does not have it."""
        values = [child.run.metrics.get(metric, math.nan) for child in self.children]
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


def target_of(run: RunInfo) -> str:
    """What a run segments; runs of earlier versions knew the whole tumour only."""
    return run.params.get("data.target", "whole")


def arm_hash(config: RunConfig) -> str:
    """Hash of an arm whatever its seed and fold."""
    split = config.split.model_copy(update={"fold": 0})
    return config.model_copy(update={"seed": 0, "split": split}).hash()


def find_ablation(store: Store, name: str) -> RunInfo:
    """Find a parent run: the newest of an experiment, or the run of this id.

    A search's confirmation is found by its name only where the experiment has no other.

    Raises:
        UserError: no such experiment or run, or it is no ablation.
    """
    found = find(store, name, "experiment", "run")
    runs = found.runs if found.run is None else [found.run]
    parents = [run for run in runs if run.tags.get(KIND) == "ablation"]
    if not parents:
        raise UserError(f"'{name}' is no ablation and has none: nothing to compare")
    return min(parents, key=lambda run: CONFIRMS in run.tags)  # they are newest first


def collect(store: Store, parent: RunInfo) -> Ablation:
    """Read every run of an ablation with its scores.

    Raises:
        UserError: no arm has a finished run, or the arms are not of the same data.
    """
    experiment = store.experiments()[parent.experiment_id]
    hashes: dict[str, str] = json.loads(parent.tags.get(ARMS, "{}"))
    children = [
        run
        for run in store.find_runs(parent_run_id=parent.run_id)
        if hashes.get(run.tags.get(TUNES, run.tags.get(ARM, ""))) == run.tags.get(ARM_HASH)
    ]
    runs = _newest([run for run in children if run.tags.get(KIND) == "train"])
    finished = [run for run in runs if run.status == "FINISHED"]
    _refuse_mixed_data(finished)
    folds = {int(run.tags.get(FOLD, 0)) for run in runs}
    arms: list[Arm] = []
    warnings: list[str] = []
    for name in hashes:
        mine = [read_child(store, run) for run in finished if run.tags[ARM] == name]
        arm, dropped = _complete_seeds(name, mine, folds)
        warnings += dropped
        if arm.children:
            arms.append(arm)
        else:
            warnings.append(_absence(name, parent))
    if not arms:
        raise UserError(f"nothing to compare in '{experiment}': no arm has finished")
    _refuse_other_truth(arms)
    unit = parent.tags.get(BUDGET, "samples")
    return Ablation(
        experiment=experiment,
        parent=parent,
        baseline=parent.tags.get(BASELINE, arms[0].name),
        unit=cast(Unit, unit if unit in get_args(Unit) else "samples"),
        arms=arms,
        unfinished=[run for run in runs if run.status != "FINISHED"],
        trials={name: [r for r in children if r.tags.get(TUNES) == name] for name in hashes},
        warnings=warnings,
    )


def read_child(store: Store, run: RunInfo) -> Child:
    """Read the scores that a finished run logged."""
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        download(store, run.run_id, Path(folder), SCORES)
        path = Path(folder) / SCORES
        try:
            scores = read_csv(path)
        except UserError as error:
            where = f"{SCORES} of run '{run.name}'"
            raise UserError(str(error).replace(str(path), where)) from None
    return Child(run, int(run.tags[SEED]), int(run.tags.get(FOLD, 0)), scores)


def _absence(arm: str, parent: RunInfo) -> str:
    reason = json.loads(parent.tags.get(FAILURES, "{}")).get(arm)
    return f"arm '{arm}' is not in the comparison: " + (reason or "no run of it has finished")


def _newest(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """Keep one run for each arm, seed and fold: a finished one if there is any, else the newest."""
    kept: dict[tuple[str, ...], RunInfo] = {}
    for run in sorted(runs, key=lambda run: (run.status != "FINISHED", -run.start_time)):
        kept.setdefault((run.tags[ARM], run.tags[SEED], run.tags.get(FOLD, "0")), run)
    return list(kept.values())


def _complete_seeds(
    name: str, children: Sequence[Child], folds: set[int]
) -> tuple[Arm, Sequence[str]]:
    kept, warnings = [], []
    for seed in sorted({child.seed for child in children}):
        mine = [child for child in children if child.seed == seed]
        missing = folds - {child.fold for child in mine}
        if missing:
            warnings.append(f"arm '{name}', seed {seed} is left out: fold {min(missing)} is absent")
            continue
        kept += sorted(mine, key=lambda child: child.fold)
    return Arm(name, kept), warnings


def _refuse_mixed_data(runs: Sequence[RunInfo]) -> None:
    """Refuse runs of one fold on different splits, or of one ``data`` block on different data.

    Another target may have other patients: those whose labels tell it.
    """
    splits: dict[tuple[str, str], RunInfo] = {}
    contents: dict[str, RunInfo] = {}
    for run in runs:
        first = splits.setdefault((run.tags.get(FOLD, "0"), target_of(run)), run)
        _refuse_unlike(first, run, SPLIT_HASH, "splits")
        settings = {
            key: value
            for key, value in sorted(run.params.items())
            if key.startswith("data.") and key not in LOCAL_KEYS
        }
        first = contents.setdefault(json.dumps(settings), run)
        _refuse_unlike(first, run, DATA_HASH, "data")


def _refuse_unlike(first: RunInfo, run: RunInfo, tag: str, noun: str) -> None:
    if first.tags.get(tag) != run.tags.get(tag):
        raise UserError(
            f"runs '{first.name}' and '{run.name}' are of different {noun} "
            f"({tag} {first.tags.get(tag)} and {run.tags.get(tag)}): they cannot be compared"
        )


def _refuse_other_truth(arms: Sequence[Arm]) -> None:
    """Refuse arms of differing ``data`` blocks whose patients do not have the same truth."""
    known: dict[tuple[str, str], tuple[int, int, str]] = {}
    for arm in arms:
        for score in (score for child in arm.children for score in child.scores):
            told = score.truth_px, score.slices, arm.name
            truth = known.setdefault((score.patient_id, arm.target), told)
            if truth[:2] != (score.truth_px, score.slices):
                raise UserError(
                    f"patient {score.patient_id} has {truth[0]} tumour pixels in {truth[1]} slices "
                    f"in arm '{truth[2]}', {score.truth_px} in {score.slices} in arm '{arm.name}': "
                    "arms must be scored against the same truth"
                )

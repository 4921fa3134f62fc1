"""Which run is promoted: the best finished one by validation Dice, and who else there was.

Under cross-validation each fold's run is scored on patients of its own, and the run with the
easiest patients would win. There an arm's seed is judged by its Dice out of fold, over all of
its folds; of the winner's runs the one is taken that is furthest above the mean of all
candidates on the same fold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from seglab.core.errors import UserError, unknown_name
from seglab.studies.results import target_of
from seglab.tracking import RunInfo, Store, UnknownRun, tags
from seglab.tracking.tags import ARM, BASELINE, FOLD, SEED, TUNES

DICE = "val/dice"
TRAINED = ("train", "trial")
PARENTS = ("ablation", "sweep")
TRIAL, BASE_TRIAL = tags.TRIAL, "0"
"""Tag of a trial's run: its number. That of the base config is 0."""
PROMOTED_RUN, BASELINE_RUN = tags.PROMOTED_RUN, tags.BASELINE_RUN
"""Tags of a promotion: the run it chose, and the one that was evaluated beside it."""


@dataclass(frozen=True)
class Candidates:
    """The finished runs among which one is chosen, best first, and what was left out."""

    ranked: Sequence[RunInfo]
    unfinished: int
    out_of_fold: Mapping[str, float] = field(default_factory=dict)
    """Dice over all folds of the arm and seed of a run id; empty without cross-validation."""

    @property
    def best(self) -> RunInfo:
        """The run that is promoted."""
        return self.ranked[0]

    @property
    def reason(self) -> str:
        """Why it is the one."""
        if self.out_of_fold:
            return self._reason_of_folds()
        best = f"run {self.best.name} has a {DICE} of {self.best.metrics[DICE]:.4f}"
        others = len(self.ranked) - 1
        if others == 0:
            return f"{best} and is the only finished candidate"
        second = self.ranked[1]
        return (
            f"{best}, the highest of {others + 1} finished candidates "
            f"(next: {second.name}, {second.metrics[DICE]:.4f})"
        )

    def _reason_of_folds(self) -> str:
        arm, seed = (self.best.tags.get(tag) for tag in (ARM, SEED))
        rivals = len({_group(run) for run in self.ranked}) - 1
        return (
            f"{arm} · seed {seed} has a {DICE} of {self.out_of_fold[self.best.run_id]:.4f} out of "
            f"fold, the highest of {rivals + 1}; run {self.best.name} is the one of its folds "
            "that is furthest above the mean of all candidates on the same patients"
        )

    def to_json(self) -> dict[str, Any]:
        """As the artifact ``candidates.json`` holds it."""
        return {
            "chosen": self.best.run_id,
            "why": self.reason,
            "unfinished": self.unfinished,
            "candidates": [
                {
                    "run_id": run.run_id,
                    "name": run.name,
                    "arm": run.tags.get(ARM),
                    "seed": run.tags.get(SEED),
                    "out_of_fold": self.out_of_fold.get(run.run_id),
                    **{key: run.metrics.get(key) for key in (DICE, "val/dice_sd", "val/iou")},
                }
                for run in self.ranked
            ],
        }


def find_candidates(store: Store, name: str) -> Candidates:
    """Find the runs that ``name`` stands for: an experiment, an ablation or search, or a run.

    Raises:
        UserError: no such experiment or run, none of its runs has finished, or they were
            validated on different patients.
    """
    try:
        # An experiment's name may look like the beginning of an id.
        known = name in store.experiments().values()
        run = store.get_run(name) if known else store.find_run(name)
    except UnknownRun:
        runs, what = _of_experiment(store, name), f"experiment '{name}'"
    else:
        runs, what = _of_run(store, run), f"run {name} ({run.name})"
    trained = [run for run in runs if is_candidate(run)]
    finished = [run for run in trained if run.status == "FINISHED"]
    scored = [run for run in finished if math.isfinite(run.metrics.get(DICE, math.nan))]
    if not scored:
        states = ", ".join(sorted({run.status for run in trained})) or "none was started"
        raise UserError(f"{what} has no finished run with a {DICE} to promote ({states})")
    _refuse_mixed_splits(scored, what)
    return rank(scored, unfinished=len(trained) - len(finished))


def is_candidate(run: RunInfo) -> bool:
    """Whether a run may be promoted: tries of a tuning, which only choose values, may not.

    Earlier versions gave them the kind of a search's trials.
    """
    return run.tags.get(tags.KIND) in TRAINED and TUNES not in run.tags


def rank(runs: Sequence[RunInfo], unfinished: int = 0) -> Candidates:
    """Rank finished runs with a validation Dice, all of one split."""
    if len({_fold(run) for run in runs}) > 1:
        return _rank_folds(runs, unfinished)
    ranked = sorted(runs, key=lambda run: (-run.metrics[DICE], run.start_time))
    return Candidates(ranked, unfinished)


def _refuse_mixed_splits(runs: Sequence[RunInfo], what: str) -> None:
    """Refuse runs of one fold on different splits or targets: the easiest would win."""
    targets = sorted({target_of(run) for run in runs})
    if len(targets) > 1:
        raise UserError(
            f"{what} has runs of different targets: {', '.join(targets)}. Each was scored against "
            "a truth of its own, so none is the best; name a RUN to promote instead"
        )
    folds: dict[str, Counter[str]] = {}
    for run in runs:
        split = run.tags.get(tags.SPLIT_HASH, "unknown")
        folds.setdefault(_fold(run), Counter())[split] += 1
    for splits in folds.values():
        if len(splits) > 1:
            told = ", ".join(
                f"{split[:8]} ({count} run{'s' if count > 1 else ''})"
                for split, count in splits.most_common()
            )
            raise UserError(
                f"{what} has runs of {len(splits)} different splits: {told}. Each was validated "
                "on patients of its own, so none is the best; name a RUN to promote instead"
            )


def _rank_folds(runs: Sequence[RunInfo], unfinished: int) -> Candidates:
    """Rank by arm and seed first; those that lack a fold come last."""
    groups: dict[tuple[str | None, ...], dict[str, RunInfo]] = {}
    for run in runs:
        groups.setdefault(_group(run), {})[_fold(run)] = run
    most = max(len(folds) for folds in groups.values())
    whole = [folds for folds in groups.values() if len(folds) == most]
    usual = {
        fold: fmean(folds[fold].metrics[DICE] for folds in groups.values() if fold in folds)
        for fold in {_fold(run) for run in runs}
    }
    mean = {
        run.run_id: fmean(each.metrics[DICE] for each in folds.values())
        for folds in whole
        for run in folds.values()
    }

    def key(run: RunInfo) -> tuple[float, ...]:
        above = run.metrics[DICE] - usual[_fold(run)]
        return (-mean.get(run.run_id, -math.inf), -above, run.start_time)

    return Candidates(sorted(runs, key=key), unfinished, mean)


def _group(run: RunInfo) -> tuple[str | None, ...]:
    return run.parent_run_id, run.tags.get(ARM), run.tags.get(SEED)


def _fold(run: RunInfo) -> str:
    return run.tags.get(FOLD, "0")


def _of_run(store: Store, run: RunInfo) -> list[RunInfo]:
    kind = run.tags.get(tags.KIND, "unknown")
    if kind in PARENTS:
        return store.find_runs(parent_run_id=run.run_id)
    if kind == "promotion":
        raise UserError(f"run {run.run_id} is itself a promotion; name the run or the experiment")
    if not is_candidate(run):
        raise UserError(
            f"run {run.run_id} ({run.name}) is of kind {kind}: only runs of kind "
            f"{' or '.join(TRAINED)} are promoted, or the best of an {' or '.join(PARENTS)}"
        )
    if run.status != "FINISHED":
        raise UserError(f"run {run.run_id} ({run.name}) is {run.status}, not FINISHED")
    return [run]


def _of_experiment(store: Store, name: str) -> list[RunInfo]:
    runs = store.find_runs(name)
    if not runs:
        known = {run.params.get("name", "") for run in store.find_runs()} - {""}
        if not known:
            raise UserError("nothing to promote: no run has been trained yet")
        raise unknown_name("experiment or run", name, known)
    return runs


def find_baseline(store: Store, run: RunInfo) -> RunInfo | None:
    """Find the finished run of the baseline, in the same ablation or search, nearest to ``run``.

    That is a run of the ablation's baseline arm, or the search's trial of the base config.
    The same fold always; the same seed if it finished, else the best by validation
    Dice. None where ``run`` is no child of either, or is of the baseline itself.
    """
    if run.parent_run_id is None:
        return None
    parent = store.get_run(run.parent_run_id)
    if parent.tags.get(tags.KIND) == "sweep":
        kind, tag, wanted = "trial", TRIAL, BASE_TRIAL
    else:
        kind, tag, wanted = "train", ARM, parent.tags.get(BASELINE, "")
    if run.tags.get(tag) == wanted:
        return None
    runs = [
        other
        for other in store.find_runs(parent_run_id=run.parent_run_id, statuses=["FINISHED"])
        if other.tags.get(tag) == wanted
        and other.tags.get(tags.KIND) == kind
        and _fold(other) == _fold(run)
        and target_of(other) == target_of(run)
    ]
    return min(
        runs,
        key=lambda other: (
            other.tags.get(SEED) != run.tags.get(SEED),
            -other.metrics.get(DICE, -math.inf),
        ),
        default=None,
    )

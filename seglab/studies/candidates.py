"""Which run is promoted: the best finished one by validation Dice, and the others there were.

Under cross-validation an arm's seed is judged by its mean Dice over all of its folds; of the
winner's runs the one is taken that is furthest above the mean of the same fold.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from seglab.core.errors import UserError
from seglab.studies.resolve import find, refuse_unfinished
from seglab.studies.results import fold_of, target_of
from seglab.tracking import tags
from seglab.tracking.run import COORDINATORS
from seglab.tracking.store import RunInfo, Store

DICE = "val/dice"
SHOWN = 10
"""Candidates of a leaderboard."""
TRAINED = ("train", "trial")
SAME = {"seeds": (tags.ARM, tags.FOLD), "folds": (tags.ARM, tags.SEED)}
"""What the runs of an ensemble have in common."""


@dataclass(frozen=True)
class Candidates:
    """The finished runs among which one is chosen, best first, and what was left out."""

    ranked: Sequence[RunInfo]
    unfinished: int
    out_of_fold: Mapping[str, float] = field(default_factory=dict)  # by run id, if there are folds
    members: Sequence[RunInfo] = ()  # of the ensemble that is promoted, the best first

    @property
    def best(self) -> RunInfo:
        """The run that is promoted."""
        return self.ranked[0]

    @property
    def name(self) -> str:
        """What is best: a run, or an arm and seed over its folds."""
        arm, seed = (self.best.tags.get(tag) for tag in (tags.ARM, tags.SEED))
        return f"{arm} · seed {seed}" if self.out_of_fold else self.best.name

    @property
    def dice(self) -> float:
        """What it is best by: over all folds where there are some."""
        return self.out_of_fold.get(self.best.run_id, self.best.metrics[DICE])

    @property
    def compared(self) -> str:
        """How many were judged on the same patients; empty where it is the only one."""
        if self.out_of_fold:
            judged = {_group(run) for run in self.ranked if run.run_id in self.out_of_fold}
            count, noun = len(judged), "arm and seed pairs"
        else:
            splits = [run.tags.get(tags.SPLIT_HASH) for run in self.ranked]
            count, noun = splits.count(self.best.tags.get(tags.SPLIT_HASH)), "runs"
        return f"{count} {noun}" if count > 1 else ""

    @property
    def reason(self) -> str:
        """Why it is the one."""
        if self.members:
            names = ", ".join(run.name for run in self.members)
            return f"{replace(self, members=()).reason}; an ensemble averages {names}"
        if self.out_of_fold:
            highest = f", the highest of {self.compared}" if self.compared else ""
            return (
                f"{self.name} has a {DICE} of {self.dice:.4f} out of fold{highest}; run "
                f"{self.best.name} is the one of its folds that is furthest above the mean of all "
                "candidates on the same patients"
            )
        best = f"run {self.best.name} has a {DICE} of {self.best.metrics[DICE]:.4f}"
        if len(self.ranked) == 1:
            return f"{best} and is the only finished candidate"
        second = self.ranked[1]
        return (
            f"{best}, the highest of {len(self.ranked)} finished candidates "
            f"(next: {second.name}, {second.metrics[DICE]:.4f})"
        )

    def leaderboard(self) -> str:
        """The best runs, a line each, and why the first is promoted."""
        lines = []
        for run in self.ranked[:SHOWN]:
            mean = self.out_of_fold.get(run.run_id)
            folds = "" if mean is None else f", {mean:.4f} out of fold"
            lines.append(f"{run.name}, run {run.run_id[:8]}: {DICE} {run.metrics[DICE]:.4f}{folds}")
        if len(self.ranked) > SHOWN:
            lines.append(f"and {len(self.ranked) - SHOWN} more")
        return "\n".join([*lines, f"promoting: {self.reason}"])

    def to_json(self) -> dict[str, Any]:
        """As the artifact ``candidates.json`` holds it."""
        return {
            "chosen": self.best.run_id,
            "why": self.reason,
            "ensemble": [run.run_id for run in self.members],
            "unfinished": self.unfinished,
            "candidates": [
                {
                    "run_id": run.run_id,
                    "name": run.name,
                    "arm": run.tags.get(tags.ARM),
                    "seed": run.tags.get(tags.SEED),
                    "out_of_fold": self.out_of_fold.get(run.run_id),
                    **{key: run.metrics.get(key) for key in (DICE, "val/dice_sd", "val/iou")},
                }
                for run in self.ranked
            ],
        }


def find_candidates(store: Store, name: str, ensemble: str | None = None) -> Candidates:
    """Find the runs that ``name`` stands for: an experiment, an ablation or search, or a run.

    With ``ensemble`` ``seeds`` or ``folds`` a run stands for all seeds or folds of its arm.
    Raises UserError where there is none, none of its runs has finished, or they were validated on
    different patients.
    """
    found = find(store, name, "experiment", "run")
    if found.run is None:
        runs, what = found.runs, f"experiment '{name}'"
    else:
        same = SAME.get(ensemble or "", ())
        runs, what = _of_run(store, found.run, same), f"run {name} ({found.run.name})"
    trained = [run for run in runs if is_candidate(run)]
    finished = [run for run in trained if run.status == "FINISHED"]
    scored = [run for run in finished if math.isfinite(run.metrics.get(DICE, math.nan))]
    if not scored:
        states = ", ".join(sorted({run.status for run in trained})) or "none was started"
        raise UserError(f"{what} has no finished run with a {DICE} to promote ({states})")
    _refuse_mixed(store, scored, what)
    return rank(scored, unfinished=len(trained) - len(finished))


def to_promote(store: Store, experiment: str, run_id: str) -> str:
    """The experiment, or the run or study of it where runs of the experiment cannot be ranked."""
    try:
        find_candidates(store, experiment)
    except UserError:
        return run_id
    return experiment


def is_candidate(run: RunInfo) -> bool:
    """Whether a run may be promoted; tuning runs were of a trial's kind in earlier versions."""
    return run.tags.get(tags.KIND) in TRAINED and tags.TUNES not in run.tags


def _of_run(store: Store, run: RunInfo, same: Sequence[str]) -> Sequence[RunInfo]:
    kind = run.tags.get(tags.KIND, "unknown")
    if kind in COORDINATORS:
        return store.find_runs(parent_run_id=run.run_id)
    if not is_candidate(run):
        raise UserError(
            f"run {run.run_id} ({run.name}) is of kind {kind}: only runs of kind "
            f"{' or '.join(TRAINED)} are promoted, or the best of an {' or '.join(COORDINATORS)}"
        )
    refuse_unfinished(run)
    if not same or run.parent_run_id is None:
        return [run]
    common = {tag: run.tags[tag] for tag in (*same, tags.ARM_HASH) if tag in run.tags}
    return store.find_runs(None, common, parent_run_id=run.parent_run_id)


def _refuse_mixed(store: Store, runs: Sequence[RunInfo], what: str) -> None:
    noun, found = _mixed(runs)
    if not found:
        return
    studies: defaultdict[str, list[RunInfo]] = defaultdict(list)
    for run in runs:
        if run.parent_run_id:
            studies[run.parent_run_id].append(run)
    instead = "RUN"
    if len(studies) > 1 and not any(_mixed(of_one)[1] for of_one in studies.values()):
        instead = "parent run"
        found = {f"{store.get_run(one).name} {one[:8]}": len(of) for one, of in studies.items()}
    told = ", ".join(
        f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in sorted(found.items())
    )
    raise UserError(
        f"{what} has runs of different {noun}: {told}. Each was validated on patients or labels "
        f"of its own, so none is the best; name a {instead} to promote instead"
    )


def _mixed(runs: Sequence[RunInfo]) -> tuple[str, dict[str, int]]:
    """Of what runs differ, and how many have each; none where all can be compared."""
    folds: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        folds["targets"][target_of(run)] += 1
        folds[f"{fold_of(run)}"][run.tags.get(tags.SPLIT_HASH, "unknown")[:8]] += 1
    mixed = ((fold, found) for fold, found in folds.items() if len(found) > 1)
    fold, found = next(mixed, ("", Counter[str]()))
    return "targets" if fold == "targets" else "splits", dict(found)


def rank(runs: Sequence[RunInfo], unfinished: int = 0) -> Candidates:
    """Rank finished runs with a validation Dice; an arm and seed that lacks a fold is last."""
    folds = {fold_of(run) for run in runs}
    if len(folds) == 1:
        ranked = sorted(runs, key=lambda run: (-run.metrics[DICE], run.start_time))
        return Candidates(ranked, unfinished)
    groups: defaultdict[tuple[str | None, ...], dict[int, float]] = defaultdict(dict)
    for run in runs:
        groups[_group(run)][fold_of(run)] = run.metrics[DICE]
    usual = {fold: fmean(g[fold] for g in groups.values() if fold in g) for fold in folds}
    most = max(map(len, groups.values()))
    means = {name: fmean(g.values()) for name, g in groups.items() if len(g) == most}

    def key(run: RunInfo) -> tuple[float, ...]:
        below = usual[fold_of(run)] - run.metrics[DICE]
        return (-means.get(_group(run), -math.inf), below, run.start_time)

    out_of_fold = {run.run_id: means[_group(run)] for run in runs if _group(run) in means}
    return Candidates(sorted(runs, key=key), unfinished, out_of_fold)


def _group(run: RunInfo) -> tuple[str | None, ...]:
    return run.parent_run_id, run.tags.get(tags.ARM), run.tags.get(tags.SEED)


def baseline_tags(store: Store, run: RunInfo) -> dict[str, str]:
    """Tags of the baseline arm's or base config's runs beside ``run``; none if it has no parent."""
    if run.parent_run_id is None:
        return {}
    parent = store.get_run(run.parent_run_id)
    if parent.tags.get(tags.KIND) == "sweep":
        return {tags.KIND: "trial", tags.TRIAL: tags.BASE_TRIAL}
    return {tags.KIND: "train", tags.ARM: parent.tags.get(tags.BASELINE, "")}


def find_baseline(store: Store, run: RunInfo) -> RunInfo | None:
    """Find the finished run of the baseline arm or base config nearest to ``run``.

    The same fold always; the same seed if it finished, else the best by validation Dice. None
    where ``run`` is no child of an ablation or search, or is of the baseline itself.
    """
    wanted = baseline_tags(store, run)
    if run.parent_run_id is None or wanted.items() <= run.tags.items():
        return None
    runs = [
        other
        for other in store.find_runs(None, wanted, ["FINISHED"], run.parent_run_id)
        if fold_of(other) == fold_of(run) and target_of(other) == target_of(run)
    ]

    def key(other: RunInfo) -> tuple[bool, float]:
        other_seed = other.tags.get(tags.SEED) != run.tags.get(tags.SEED)
        return other_seed, -other.metrics.get(DICE, -math.inf)

    return min(runs, key=key, default=None)

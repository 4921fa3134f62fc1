"""Ensembles at promotion: which finished runs are averaged, and that they can be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from seglab.core.config import differences, without_local
from seglab.core.errors import UserError
from seglab.models.build import Ensemble
from seglab.studies.candidates import SAME, Candidates
from seglab.studies.data import SharedData
from seglab.studies.resolve import TrainedRun, load_trained
from seglab.tracking import tags
from seglab.tracking.store import RunInfo, Store

MAY_DIFFER = {"seeds": {"seed"}, "folds": {"split.fold"}}


def model_name(run: RunInfo, members: int) -> str:
    """Name the model of a run, or the ensemble of so many of which it is the best."""
    return f"ensemble of {members}, best {run.name}" if members else run.name


def choose_members(candidates: Candidates, which: str) -> list[RunInfo]:
    """Choose the runs of the ensemble ``seeds``, ``folds`` or ``top:K``, the best run first.

    ``seeds`` and ``folds`` are the others of the best run's arm, ``top:K`` the K best of all arms.
    Raises UserError where there are fewer than two, or K.
    """
    best, ranked = candidates.best, candidates.ranked
    if which not in SAME and not re.fullmatch(r"top:([2-9]|1\d|20)", which):
        raise UserError(
            f"--ensemble: '{which}' is not allowed: seeds, folds or top:K, K from 2 to 20"
        )
    wanted = 2 if which in SAME else int(which.removeprefix("top:"))
    same = SAME.get(which, (tags.FOLD,))
    found = [run for run in ranked if all(run.tags.get(tag) == best.tags.get(tag) for tag in same)]
    if which in SAME:
        found = [run for run in found if run.parent_run_id == best.parent_run_id]
    # A run that repeats a config, as a search may draw a point twice, is the same network again.
    distinct = {"seeds": tags.SEED, "folds": tags.FOLD}.get(which, tags.CONFIG_HASH)
    firsts: dict[str, RunInfo] = {}
    for run in found:
        firsts.setdefault(run.tags.get(distinct, run.run_id), run)
    found = list(firsts.values())[: None if which in SAME else wanted]
    if len(found) < wanted:
        raise UserError(
            f"--ensemble {which}: {len(found)} finished run{'s' * (len(found) > 1)} of the kind "
            f"(best: {best.name}), it takes {wanted} or more"
        )
    return found


def load_ensemble(
    store: Store,
    runs: Sequence[RunInfo],
    which: str,
    overrides: Sequence[str] = (),
    shared: SharedData | None = None,
) -> TrainedRun:
    """Load the first run with a network that averages the probabilities of all.

    Raises UserError where they do not see the same input, have other test patients, or differ in
    what the ensemble's kind does not name.
    """
    members = tuple(load_trained(store, run, overrides, shared) for run in runs)
    first = members[0]
    for one in members[1:]:
        configs = without_local(first.config), without_local(one.config)
        differs = differences(*configs).keys() - MAY_DIFFER.get(which, set())
        if which not in MAY_DIFFER:
            same = ("data.", "split.", "model.planes")
            differs = {key for key in differs if key.startswith(same)}
        if differs:
            told = ", ".join(sorted(differs))
            raise UserError(
                f"--ensemble {which}: {one.run.name} and {first.run.name} differ in {told}"
            )
        if set(one.data.split.test) != set(first.data.split.test):
            raise UserError(f"--ensemble {which}: {one.run.name} has other test patients")
    network = Ensemble(one.predictor.network for one in members)
    return replace(first, predictor=replace(first.predictor, network=network), members=members)

"""A run, trained again from what the store holds of it, and compared to the bit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from seglab.core.config import differences
from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.core.machine import tell
from seglab.studies.candidates import TRAINED
from seglab.studies.experiment import ENVIRONMENT, Plan, train_one
from seglab.studies.report.page import escape_markdown
from seglab.studies.report.tables import counted
from seglab.studies.resolve import (
    WEIGHTS,
    fetch,
    find_trained,
    open_trained_data,
    read_config,
    refuse_unfinished,
)
from seglab.studies.results import SCORES
from seglab.studies.workers import with_threads
from seglab.tracking import tags
from seglab.tracking.artifacts import read_artifact
from seglab.tracking.environment import environment_report
from seglab.tracking.store import RunInfo, Store

RESULTS = ("train/", "val/", "lr")
"""Metrics that a rerun must give again; times and memory need not."""


def reproduce(store: Store, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train a finished run again and compare; returns the keys of ``reproduce --json``.

    ``differences`` are in results, none where every metric, score and weight is equal to the bit;
    those of ``environment``, in code, versions and machine, may explain them and are printed first.
    The rerun joins the experiment as a ``reproduction``. ``name`` is of a training run or a trial,
    its checkpoint or registered model; ``overrides`` are for paths and devices of this machine.

    Raises:
        UserError: not a finished training run, or the data or split is another.
    """
    run = find_trained(store, name)
    kind = run.tags.get(tags.KIND, "unknown")
    if kind not in TRAINED:
        raise UserError(
            f"run {run.run_id} ({run.name}) is of kind {kind}: only trained runs repeat"
        )
    refuse_unfinished(run)
    before: dict[str, Any] = json.loads(read_artifact(store, run, ENVIRONMENT))
    config = read_config(store, run, overrides)
    # Sums are rounded otherwise with another number of processor threads.
    cores = config.train.threads or before.get("machine", {}).get("cores", 0)
    config = with_threads(config, cores)
    data = open_trained_data(run, config)
    environment = compare_environment(before, run)
    for text in environment:
        tell(f"warning: another environment may change the result: {text}")
    arm, repeats = run.tags.get(tags.ARM, config.name), {tags.REPRODUCES: run.run_id}
    outcome = train_one(Plan(config, arm, "reproduction", tags=repeats), store, data, fresh=True)
    rerun = store.get_run(outcome.run_id)
    differences = compare_results(store, run, rerun)
    how = counted(len(differences), "difference") if differences else "Equal to the bit"
    told = f"{how} to run {run.run_id}.", *map(escape_markdown, differences), rerun.tags[tags.NOTE]
    store.set_tag(rerun.run_id, tags.NOTE, "\n\n".join(told))
    return {
        "run_id": run.run_id,
        "new_run_id": outcome.run_id,
        "differences": differences,
        "environment": environment,
        "equal": not differences,
    }


def compare_results(store: Store, old: RunInfo, new: RunInfo) -> list[str]:
    """Say in what two runs differ: metrics by epoch, scores by patient, weights.

    Figures that the version of the old run did not know are not compared.
    """
    names = {key for key in old.metrics if key.startswith(RESULTS)}
    found = [compare_metric(store, old, new, name) for name in sorted(names)]
    tables = (read_artifact(store, run, SCORES) for run in (old, new))
    before, after = (read_rows(SCORES, content=table) for table in tables)
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        ends = {Path(folder) / "old": old, Path(folder) / "new": new}
        weights = _compare_weights(*(fetch(store, run, WEIGHTS, end) for end, run in ends.items()))
    known = [{key: row.get(key) for key in before[0]} for row in after] if before else after
    found += [None if before == known else f"{SCORES} differs", weights]
    return [text for text in found if text is not None]


def compare_metric(store: Store, old: RunInfo, new: RunInfo, name: str) -> str | None:
    """Compare all steps of a metric; None where they are equal."""
    before, after = (dict(store.metric_history(run.run_id, name)) for run in (old, new))
    if len(before) == len(after) + 1:  # earlier versions logged the last value twice
        before.pop(max(after, default=0) + 1, None)
    if before == after:
        return None
    if before.keys() != after.keys():
        return f"{name}: {len(before)} values before, {len(after)} now"
    step = max(before, key=lambda at: abs(after[at] - before[at]))
    return (
        f"{name}: differs by up to {abs(after[step] - before[step]):.3g} "
        f"({before[step]:.6g} before, {after[step]:.6g} now, at step {step})"
    )


def _compare_weights(old: Path, new: Path) -> str | None:
    before, after = load_file(old), load_file(new)
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in (before, after)]
    if shapes[0] != shapes[1]:
        return "the networks have different weights"
    gaps = [
        float((tensor.double() - after[name].double()).abs().max())
        for name, tensor in before.items()
        if not tensor.equal(after[name])
    ]
    return f"{len(gaps)} weights differ, by up to {max(gaps):.3g}" if gaps else None


def compare_environment(before: Mapping[str, Any], run: RunInfo) -> list[str]:
    """Say how code, versions and machine differ from those of a run."""
    now = environment_report(run.tags.get(tags.DEVICE, "cpu"))
    parts = ("code_hash", "git_commit", "versions", "machine")
    both = ({part: one.get(part) for part in parts} for one in (before, now))
    return [f"{key}: {old} before, {new} now" for key, (old, new) in differences(*both).items()]

"""The figures of the report, as PNG."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seglab.core.errors import as_warning
from seglab.evaluation.factors import FactorEffects
from seglab.evaluation.metrics import Case
from seglab.evaluation.scores import stratify
from seglab.figures import comparison as plots
from seglab.figures.sheets import arm_sheet
from seglab.figures.style import marked
from seglab.learning.inference import build_case
from seglab.studies.comparison import OTHER_TARGET, ComparedAblation
from seglab.studies.data import SharedData
from seglab.studies.report.tables import p_value
from seglab.studies.resolve import TrainedRun, load_trained
from seglab.studies.results import Arm
from seglab.tracking.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
SHEET_PATIENTS = 5
ALWAYS = 0.995
"""Share of resamples, 100% when rounded: a bar of one arm shows nothing."""
COST_AXES = {
    "gflops_per_image": "GFLOP an image, forward",
    "train_seconds": "training seconds a run",
}


def comparison_figures(result: ComparedAblation, store: Store) -> dict[str, bytes]:
    """Draw the comparison; PNG by name. What cannot be drawn is a warning."""
    base, margin = result.baseline, result.comparison.margin
    arms = sorted(result.ablation.arms, key=lambda arm: arm.name != base)
    sizes = [size or "" for size in stratify([s.truth_px for s in result.patients.values()])]
    curves = {arm.name: [_curve(store, one.run.run_id) for one in arm.runs] for arm in arms}
    by_arm = {row.arm: row for row in result.summaries}
    draw: dict[str, Callable[[], Figure]] = {
        "pareto": lambda: plots.pareto(
            [by_arm[one.name] for one in arms], result.costs, _axes(result)
        )
    }
    if rows := result.rows:
        level = result.comparison.confidence
        differences = {row.arm: result.dice[row.arm] - result.dice[base] for row in rows}
        draw["forest"] = lambda: plots.forest(rows, result.verdicts, base, margin, level)
        draw["patients"] = lambda: plots.patient_swarm(differences, sizes, base, margin)
        compared = (result.comparison.baseline, *result.comparison.rows)
        firsts = [one.share_first for one in compared]
        if result.budgets.all_equal and np.isfinite(firsts[0]) and max(firsts) < ALWAYS:
            draw["order"] = lambda: plots.order_bar(compared)
    effects = result.factors
    if effects and effects.interactions:
        draw["interactions"] = lambda: _interactions(effects)
    if measured := result.learning:
        draw["training_patients"] = lambda: plots.patients_curve(measured)
    if all(curve for of_arm in curves.values() for curve in of_arm):
        draw["learning"] = lambda: plots.arms_learning(curves)
    found = {}
    for name, figure in draw.items():
        with as_warning(f"figure {name} is not drawn"):
            png = io.BytesIO()
            marked(figure(), result.ablation.notice).savefig(png, format="png", dpi=DPI)
            found[name] = png.getvalue()
    return found


def _interactions(effects: FactorEffects) -> Figure:
    """A panel for each pair of factors, with the interaction of the smallest p."""
    keys = list(effects.design.levels)
    panels = {}
    for a, b in itertools.combinations(range(len(keys)), 2):
        found = [one for one in effects.interactions if one.factors == (keys[a], keys[b])]
        clearest = min(found, key=lambda one: one.p_holm)
        title = f"{clearest.diff:+.3f}, corrected p {p_value(clearest.p_holm)}"
        panels[keys[a], keys[b]] = effects.cells(a, b), title
    return plots.interaction_plot(effects.design.levels, panels)


def _axes(result: ComparedAblation) -> dict[str, str]:
    known = {
        key: label
        for key, label in COST_AXES.items()
        if all(np.isfinite(result.costs[row.arm][key]) for row in result.summaries)
    }
    return known or COST_AXES


def _curve(store: Store, run_id: str) -> list[tuple[int, float]]:
    """Validation Dice of every epoch, without the final figure that follows them."""
    epochs = {step for step, _ in store.metric_history(run_id, "val/loss")}
    history = store.metric_history(run_id, "val/dice")
    return [(step, value) for step, value in history if step in epochs]


def draw_sheet(result: ComparedAblation, store: Store) -> Figure:
    """Draw five patients under every arm's first seed, on the slice with the most tumour."""
    names, shared = choose_patients(result), SharedData(warn=False)
    arms = [arm for arm in result.ablation.arms if result.verdicts.get(arm.name) != OTHER_TARGET]
    return arm_sheet({arm.name: _predict(arm, names, store, shared) for arm in arms}, len(names))


def _predict(arm: Arm, patients: Sequence[str], store: Store, shared: SharedData) -> Iterator[Case]:
    """Predict patients as the first seed of an arm does, with the scores that it logged."""
    first = [one for one in arm.runs if one.seed == arm.seeds[0]]
    scored = {score.patient_id: (one, score) for one in first for score in one.scores}
    opened: dict[int, TrainedRun] = {}
    for name in patients:
        one, score = scored[name]
        if one.fold not in opened:
            # The machine that writes the report need not have the device that trained.
            opened[one.fold] = load_trained(store, one.run, ["train.device=auto"], shared)
        trained = opened[one.fold]
        cache = trained.data.cache
        probability = trained.predictor.native(cache, cache.by_id[name])
        mask = probability > trained.config.evaluation.threshold
        yield build_case(cache, cache.by_id[name], probability, mask, known=score)


def choose_patients(result: ComparedAblation) -> list[str]:
    """Name up to five patients, evenly spaced in the ranking of their Dice over all arms."""
    ranked = result.dice.mean(axis=1).sort_index().sort_values(kind="stable").index
    places = np.linspace(0, len(ranked) - 1, min(SHEET_PATIENTS, len(ranked)))
    return list(ranked[np.rint(places).astype(int)])

"""The figures of the report, as PNG with their captions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seglab.evaluation.scores import stratify
from seglab.figures.comparison import (
    ArmCurves,
    Costed,
    Difference,
    arms_learning,
    forest,
    pareto,
    patient_swarm,
)
from seglab.studies.comparison import ComparedAblation
from seglab.studies.report.document import Picture
from seglab.studies.results import Arm
from seglab.tracking import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
COST_AXES = {
    "gflops_per_image": "GFLOP an image, forward",
    "train_seconds": "training seconds a run",
}


def picture(name: str, figure: Figure, alt: str, caption: str) -> Picture:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Picture(name, buffer.getvalue(), alt, caption)


def comparison_pictures(result: ComparedAblation, store: Store) -> list[Picture]:
    """Draw everything that figures alone can tell; arms in the order of the experiment file."""
    pictures = _difference_pictures(result) if result.rows else []
    pictures.append(_pareto(result))
    learning = _learning(result, store)
    return [*pictures, *([learning] if learning else [])]


def _difference_pictures(result: ComparedAblation) -> list[Picture]:
    base, margin = result.comparison.baseline.arm, result.comparison.margin
    rows = [
        Difference(
            arm=row.arm,
            diff=row.diff,
            low=row.ci_low,
            high=row.ci_high,
            verdict=result.verdicts[row.arm],
            by_patient=[
                result.dice[row.arm][name] - result.dice[base][name] for name in result.patients
            ],
        )
        for row in result.rows
    ]
    return [
        picture(
            "forest",
            forest(rows, base, margin, result.comparison.confidence),
            "Mean difference of each arm to the baseline with its interval",
            "Mean paired difference in patient Dice with its interval over patients.",
        ),
        picture(
            "patients",
            patient_swarm(rows, patient_sizes(result), base, margin),
            "Difference of every patient to the baseline, a row an arm",
            "Each point is one patient, seeds averaged; right of zero the arm is better.",
        ),
    ]


def patient_sizes(result: ComparedAblation) -> list[str]:
    """Third by true tumour size of each patient, in the order of ``result.patients``."""
    sizes = stratify([score.truth_px for score in result.patients.values()])
    return [size or "" for size in sizes]


def _in_file_order(result: ComparedAblation) -> list[Arm]:
    base = result.comparison.baseline.arm
    return sorted(result.ablation.arms, key=lambda arm: arm.name != base)


def _pareto(result: ComparedAblation) -> Picture:
    by_arm = {row.arm: row for row in result.summaries}
    points = [
        Costed(
            arm.name,
            by_arm[arm.name].mean,
            by_arm[arm.name].mean_low,
            by_arm[arm.name].mean_high,
            result.costs[arm.name],
        )
        for arm in _in_file_order(result)
    ]
    axes = {key: label for key, label in COST_AXES.items() if _is_known(points, key)}
    return picture(
        "pareto",
        pareto(points, axes or COST_AXES),
        "Dice of each arm against its cost",
        "Dice against cost; upper left is better. Lines span the interval of the mean over "
        "patients. Dashed: arms that no other beats on both.",
    )


def _is_known(points: Sequence[Costed], key: str) -> bool:
    return all(np.isfinite(point.costs[key]) for point in points)


def _learning(result: ComparedAblation, store: Store) -> Picture | None:
    arms = [
        ArmCurves(arm.name, [_curve(store, child.run.run_id) for child in arm.children])
        for arm in _in_file_order(result)
    ]
    if not all(curve for arm in arms for curve in arm.curves):
        return None
    return picture(
        "learning",
        arms_learning(arms),
        "Validation Dice over the epochs, a line an arm",
        "Validation Dice after each epoch; thin lines are runs, thick ones their mean.",
    )


def _curve(store: Store, run_id: str) -> list[tuple[int, float]]:
    """Validation Dice of every epoch, without the final figure that follows them."""
    epochs = {step for step, _ in store.metric_history(run_id, "val/loss")}
    history = store.metric_history(run_id, "val/dice")
    return [(step, value) for step, value in history if step in epochs]

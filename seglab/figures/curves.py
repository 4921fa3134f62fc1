"""Curves of one run: its training, and every patient of its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from seglab.evaluation.metrics import PatientScore, mean
from seglab.evaluation.scores import BINS, calibration
from seglab.figures.style import BLUE, GREY, ORANGE, VERMILLION, log_axis, new_figure, tidy, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSITION_BINS = 10
SCORES: Final[Sequence[tuple[str, str, dict[str, Any]]]] = (
    ("dice", "Dice", {"color": unit(BLUE), "marker": "o", "markersize": 4.5}),
    ("iou", "IoU", {"color": unit(ORANGE), "marker": "s", "markersize": 7, "fillstyle": "none"}),
)
"""Open squares, so that a point of both at 0 shows."""
MARGIN = 0.03  # of a score's axis: a point at 0 or 1 is whole


def learning_curves(history: Sequence[Mapping[str, float]], kept_epoch: int) -> Figure:
    """Draw loss, validation Dice and IoU, and learning rate over the epochs, in three panels.

    The history has a mapping an epoch; missing and non-finite values leave a gap. A dashed line
    marks the epoch whose weights are kept.
    """
    keys = ("train/loss", "val/loss", "val/dice", "val/iou", "lr")
    table = pd.DataFrame(history).set_index("epoch").reindex(columns=keys)
    table = table.replace([np.inf, -np.inf], np.nan)
    figure = new_figure(13, 3.8)
    panels = figure.subplots(1, 3, width_ratios=[1, 1, 0.7])
    loss, score, rate = panels
    curves = (
        (loss, "training", BLUE),
        (loss, "validation", ORANGE),
        (score, "Dice", BLUE),
        (score, "IoU", ORANGE),
        (rate, "", GREY),
    )
    for key, (axes, label, colour) in zip(keys, curves, strict=True):
        if table[key].notna().any():
            axes.plot(table[key], "o-", markersize=3, color=unit(colour), label=label)
    tidy(loss, x="epoch", y="loss", title="Loss")
    tidy(score, x="epoch", y="mean over patients", title="Validation score")
    tidy(rate, x="epoch", y="", title="Learning rate")
    score.set_ylim(0, 1)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    if table["val/dice"].notna().any():
        dice = table.loc[kept_epoch, "val/dice"]
        star = {"marker": "*", "markersize": 13, "linestyle": "none", "color": unit(VERMILLION)}
        score.plot(kept_epoch, dice, label=f"kept: {dice:.3f} at epoch {kept_epoch}", **star)
        for axes in panels:
            axes.axvline(kept_epoch, color="0.6", linestyle="--", linewidth=1, zorder=0)
    for axes in (loss, score):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="best")
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return figure


def patient_plot(scores: Sequence[PatientScore]) -> Figure:
    """Dice and IoU of every patient: sorted, and against the size of the tumour."""
    known = sorted((s for s in scores if np.isfinite(s.dice)), key=lambda s: s.dice)
    figure = new_figure(12, 4.2)
    ranked, sized = figure.subplots(1, 2)
    rank = np.arange(1, len(known) + 1)
    for key, name, look in SCORES:
        values = [getattr(score, key) for score in known]
        label = f"{name}, mean {mean(values):.3f}"
        ranked.plot(rank, values, linestyle="none", label=label, **look)
        ranked.axhline(mean(values), color=look["color"], linewidth=1, linestyle="--")
    ranked.set_ylim(-MARGIN, 1 + MARGIN)
    ranked.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    tidy(ranked, x="patients, worst to best", y="score", title="Every test patient")
    ranked.legend(frameon=False, loc="best")  # wherever the fewest patients are
    _against_size(sized, known)
    return figure


def _against_size(axes: Axes, scores: Sequence[PatientScore]) -> None:
    in_ml = all(np.isfinite(score.truth_ml) for score in scores)
    sizes = [score.truth_ml if in_ml else score.truth_px for score in scores]
    for key, name, look in SCORES:
        values = [getattr(score, key) for score in scores]
        axes.plot(sizes, values, linestyle="none", label=name, **look)
    if sizes:
        log_axis(axes)
    axes.set_ylim(-MARGIN, 1 + MARGIN)
    unit_name = "ml" if in_ml else "pixels"
    tidy(axes, x=f"true tumour, {unit_name} (log)", y="score", title="Scores and tumour size")
    axes.legend(frameon=False, loc="best")


def calibration_plot(sums: NDArray[np.float64]) -> Figure:
    """How often pixels of a predicted probability are tumour, and how many there are of each."""
    confidence, frequency, error = calibration(sums)
    figure = new_figure(6, 5.4)
    curve, counts = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    curve.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    label = f"model (expected error {error:.4f})"
    curve.plot(confidence, frequency, "o-", color=unit(BLUE), label=label)
    curve.set_ylim(0, 1)
    curve.legend(frameon=False, loc="upper left")
    tidy(curve, x="", y="share that is tumour", title="Calibration near true or predicted tumour")
    edges = (np.arange(BINS) + 0.5) / BINS
    counts.bar(edges, np.maximum(sums[0], 1), width=0.9 / BINS, color=unit(GREY))
    counts.set_yscale("log")
    counts.set_xlim(0, 1)
    tidy(counts, x="predicted probability", y="pixels (log)")
    return figure


def slice_position_plot(patients: Sequence[NDArray[np.float64]]) -> Figure:
    """Dice of single slices by their place in the stack."""
    position, dice = np.concatenate(patients, axis=1)
    figure = new_figure(8, 4)
    axes = figure.subplots()
    axes.plot(position, dice, ".", markersize=3, color="0.75", label="a slice")
    bins = np.minimum((position * POSITION_BINS).astype(int), POSITION_BINS - 1)
    table = pd.Series(dice).groupby(bins).describe()
    centres, middle = (table.index + 0.5) / POSITION_BINS, table["50%"]
    spread = np.array([middle - table["25%"], table["75%"] - middle])
    axes.errorbar(
        centres, middle, spread, fmt="o-", color=unit(VERMILLION), capsize=3,
        label="median and quartiles",
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(-MARGIN, 1 + MARGIN)
    title = "Slices with tumour or a prediction"
    tidy(axes, x="place in the stack (0 first slice, 1 last)", y="Dice of the slice", title=title)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    return figure

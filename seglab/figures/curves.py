"""Learning curves of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seglab.figures.style import BLUE, GREY, ORANGE, VERMILLION, new_figure, tidy, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = NDArray[np.float64]


def learning_curves(
    history: Sequence[Mapping[str, float]], kept_epoch: int | None = None
) -> Figure:
    """Draw loss, validation Dice and IoU, and learning rate over the epochs.

    Args:
        history: one mapping an epoch, with any of ``train/loss``, ``val/loss``, ``val/dice``,
            ``val/iou`` and ``lr``; ``epoch`` gives its number, else it is its position from 1.
            Missing and non-finite values leave a gap.
        kept_epoch: whose weights are kept; None takes that of the best validation Dice.

    Returns:
        A figure of three panels; a dashed line marks the epoch whose weights are kept.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("no epochs to draw")
    epochs = np.array([row.get("epoch", place) for place, row in enumerate(history, start=1)])
    figure = new_figure(13, 3.8)
    loss, score, rate = figure.subplots(1, 3, width_ratios=[1, 1, 0.7])

    _line(loss, epochs, _column(history, "train/loss"), "training", BLUE)
    _line(loss, epochs, _column(history, "val/loss"), "validation", ORANGE)
    tidy(loss, x="epoch", y="loss", title="Loss")

    dice = _column(history, "val/dice")
    _line(score, epochs, dice, "Dice", BLUE)
    _line(score, epochs, _column(history, "val/iou"), "IoU", ORANGE)
    score.set_ylim(0, 1)
    tidy(score, x="epoch", y="mean over patients", title="Validation score")

    _line(rate, epochs, _column(history, "lr"), "", GREY)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    tidy(rate, x="epoch", y="", title="Learning rate")

    if np.isfinite(dice).any():
        kept = int(np.nanargmax(dice)) if kept_epoch is None else epochs.tolist().index(kept_epoch)
        _mark_kept([loss, score, rate], score, epochs[kept], dice[kept])
    for axes in (loss, score):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="best")
    for axes in (loss, score, rate):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _column(history: Sequence[Mapping[str, float]], key: str) -> Curve:
    values = np.array([row.get(key, np.nan) for row in history], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _line(
    axes: Axes, epochs: Curve, values: Curve, label: str, colour: tuple[int, int, int]
) -> None:
    if np.isfinite(values).any():
        axes.plot(epochs, values, "o-", markersize=3, color=unit(colour), label=label)


def _mark_kept(panels: Sequence[Axes], score: Axes, epoch: float, dice: float) -> None:
    for axes in panels:
        axes.axvline(epoch, color="0.6", linestyle="--", linewidth=1, zorder=0)
    score.plot(
        epoch,
        dice,
        marker="*",
        markersize=13,
        linestyle="none",
        color=unit(VERMILLION),
        label=f"kept: {dice:.3f} at epoch {epoch:g}",
    )

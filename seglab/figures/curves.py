"""Learning curves of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seglab.figures.style import BLUE, GREY, ORANGE, VERMILLION, new_figure, tidy, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(history: Sequence[Mapping[str, float]], kept_epoch: int) -> Figure:
    """Draw loss, validation Dice and IoU, and learning rate over the epochs.

    Args:
        history: one mapping an epoch, with any of ``train/loss``, ``val/loss``, ``val/dice``,
            ``val/iou`` and ``lr``; ``epoch`` gives its number, else it is its position from 1.
            Missing and non-finite values leave a gap.
        kept_epoch: whose weights are kept.

    Returns:
        A figure of three panels; a dashed line marks the epoch whose weights are kept.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("no epochs to draw")
    epochs = np.array([row.get("epoch", place) for place, row in enumerate(history, start=1)])
    figure = new_figure(13, 3.8)
    panels = figure.subplots(1, 3, width_ratios=[1, 1, 0.7])
    loss, score, rate = panels
    curves = (
        (loss, "train/loss", "training", BLUE),
        (loss, "val/loss", "validation", ORANGE),
        (score, "val/dice", "Dice", BLUE),
        (score, "val/iou", "IoU", ORANGE),
        (rate, "lr", "", GREY),
    )
    drawn = {}
    for axes, key, label, colour in curves:
        values = np.array([row.get(key, np.nan) for row in history], dtype=float)
        drawn[key] = values = np.where(np.isfinite(values), values, np.nan)
        if np.isfinite(values).any():
            axes.plot(epochs, values, "o-", markersize=3, color=unit(colour), label=label)
    tidy(loss, x="epoch", y="loss", title="Loss")
    tidy(score, x="epoch", y="mean over patients", title="Validation score")
    tidy(rate, x="epoch", y="", title="Learning rate")
    score.set_ylim(0, 1)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    dice = drawn["val/dice"]
    if np.isfinite(dice).any():
        kept = epochs.tolist().index(kept_epoch)
        label = f"kept: {dice[kept]:.3f} at epoch {epochs[kept]:g}"
        star = {"marker": "*", "markersize": 13, "linestyle": "none", "color": unit(VERMILLION)}
        score.plot(epochs[kept], dice[kept], label=label, **star)
        for axes in panels:
            axes.axvline(epochs[kept], color="0.6", linestyle="--", linewidth=1, zorder=0)
    for axes in (loss, score):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="best")
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure

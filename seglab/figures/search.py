"""Pictures of a search: what was tried, what mattered, where the time went."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seglab.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    RGB,
    SKY_BLUE,
    VERMILLION,
    new_figure,
    tidy,
    unit,
)
from seglab.figures.trials import (
    COSTS,
    Importance,
    Scale,
    TrialRow,
    pareto_front,
    rank_curve,
    searched_keys,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATES: Mapping[str, RGB] = {"complete": BLUE, "pruned": ORANGE, "failed": VERMILLION}
_PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def history(rows: Sequence[TrialRow]) -> Figure:
    """Dice of every trial in its order, and the best so far."""
    figure = new_figure(8, 4)
    axes = figure.subplots()
    for state in ("complete", "pruned"):
        _scatter(axes, [row for row in rows if row.state == state and row.values], state)
    complete = [row for row in rows if row.state == "complete"]
    if complete:
        best = np.maximum.accumulate([row.values[0] for row in complete])
        numbers = [row.number for row in complete]
        axes.step(numbers, best, where="post", color=unit(GREY), label="best so far", zorder=1)
    for row in complete:
        if row.is_base:
            axes.axhline(
                row.values[0], color="0.6", linestyle="--", linewidth=1, label="base config"
            )
    _integers(axes)
    tidy(axes, x="trial", y="validation Dice", title="Optimisation history")
    _legend(axes)
    return figure


def _scatter(axes: Axes, rows: Sequence[TrialRow], state: str) -> None:
    if rows:
        numbers, dice = [row.number for row in rows], [row.values[0] for row in rows]
        axes.plot(numbers, dice, "o", markersize=6, color=unit(STATES[state]), label=state)


def importances(found: Sequence[Importance]) -> Figure:
    """The evaluators side by side, each named."""
    figure = new_figure(10, 1.5 + 0.4 * max((len(one.shares) for one in found), default=1))
    panels = np.atleast_1d(figure.subplots(1, len(found)))
    for axes, one in zip(panels, found, strict=True):
        keys = list(one.shares)[::-1]
        bars = axes.barh(keys, [one.shares[key] for key in keys], color=unit(BLUE))
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axes.set_xlim(0, 1.12)
        if one.note:
            axes.text(0.5, 0.5, one.note, ha="center", transform=axes.transAxes, wrap=True)
        tidy(axes, x="share of importance", y="", title=one.evaluator)
        axes.grid(visible=False, axis="y")
    return figure


def parallel(rows: Sequence[TrialRow], log_keys: Collection[str] = ()) -> Figure:
    """Every complete trial as a line across its parameters, coloured by Dice."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    complete = sorted((r for r in rows if r.state == "complete"), key=lambda r: r.values[0])
    keys = searched_keys(rows)
    figure = new_figure(2 + 1.7 * max(len(keys), 2), 4.5)
    axes = figure.subplots()
    dice = [row.values[0] for row in complete]
    shade = ScalarMappable(
        Normalize(min(dice, default=0), max(dice, default=1)), colormaps["viridis"]
    )
    scales = [
        Scale.of([row.params[key] for row in complete if key in row.params], log=key in log_keys)
        for key in keys
    ]
    for row in complete:
        points = [
            (place, scale.place(row.params[key]))
            for place, (key, scale) in enumerate(zip(keys, scales, strict=True))
            if key in row.params
        ]
        colour = shade.to_rgba(np.asarray(row.values[0]))
        axes.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1.8, markersize=3)
    for place, scale in enumerate(scales):
        axes.axvline(place, color="0.7", linewidth=1, zorder=0)
        for height, label in scale.ticks():
            axes.text(place + 0.04, height, label, fontsize=8, va="center", bbox=_PLATE)
    axes.set_xticks(range(len(keys)), keys)
    axes.set_yticks([])
    tidy(axes, x="", y="", title="Complete trials across their parameters")
    axes.grid(visible=False)
    figure.colorbar(shade, ax=axes, label="validation Dice")
    return figure


def slices(rows: Sequence[TrialRow], log_keys: Collection[str] = ()) -> Figure:
    """Dice against each parameter by itself."""
    keys = searched_keys(rows)
    columns = min(len(keys), 4) or 1
    lines = -(-len(keys) // columns) or 1
    figure = new_figure(3.2 * columns, 3 * lines)
    panels = np.atleast_1d(figure.subplots(lines, columns, sharey=True)).ravel()
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes, key in zip(panels, keys, strict=False):
        _slice(axes, rows, key, log=key in log_keys)
    _legend(panels[0])
    return figure


def _slice(axes: Axes, rows: Sequence[TrialRow], key: str, *, log: bool) -> None:
    with_key = [row for row in rows if key in row.params and row.values]
    scale = Scale.of([row.params[key] for row in with_key], log=log)
    for state in ("complete", "pruned"):
        chosen = [row for row in with_key if row.state == state]
        if chosen:
            places = [scale.place(row.params[key]) for row in chosen]
            dice = [row.values[0] for row in chosen]
            axes.plot(places, dice, "o", color=unit(STATES[state]), label=state, alpha=0.8)
    ticks = scale.ticks()
    axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.set_xlim(-0.1, 1.1)
    tidy(axes, x=key, y="validation Dice")


def curves(rows: Sequence[TrialRow]) -> Figure:
    """Learning curves: complete trials by rank, pruned ones with their ends marked."""
    figure = new_figure(11, 4.2)
    axes, ranks = figure.subplots(1, 2, width_ratios=[1.2, 1])
    complete = sorted((r for r in rows if r.state == "complete"), key=lambda r: -r.values[0])
    for place, row in enumerate(complete):
        first = place == 0
        label = f"best: trial {row.number:03d}" if first else ("complete" if place == 1 else None)
        colour, width = (BLUE, 2.4) if first else (SKY_BLUE, 1.0)
        _curve(axes, row, colour, width, label)
    for place, row in enumerate(row for row in rows if row.state == "pruned" and row.curve):
        _curve(axes, row, ORANGE, 1.0, None)
        axes.plot(
            *row.curve[-1], "X", color=unit(VERMILLION), label=None if place else "pruned here"
        )
    _integers(axes)
    tidy(axes, x="epoch", y="validation Dice", title="Learning curves")
    _legend(axes)
    _rank_panel(ranks, rows)
    return figure


def _rank_panel(axes: Axes, rows: Sequence[TrialRow]) -> None:
    """Rank among the trials alive at each epoch: crossing lines mean early epochs mislead."""
    for row in rows:
        ranked = rank_curve(row, rows)
        if ranked:
            colour = STATES["pruned"] if row.state == "pruned" else STATES["complete"]
            epochs, places = zip(*ranked, strict=True)
            axes.plot(epochs, places, "-", color=unit(colour), alpha=0.6, linewidth=1.2)
            if row.state == "pruned":
                axes.plot(epochs[-1], places[-1], "X", color=unit(VERMILLION))
    axes.invert_yaxis()
    _integers(axes)
    tidy(axes, x="epoch", y="rank among trials at this epoch", title="Rank of the curves")


def _curve(axes: Axes, row: TrialRow, colour: RGB, width: float, label: str | None) -> None:
    if row.curve:
        epochs, dice = zip(*row.curve, strict=True)
        axes.plot(epochs, dice, "-", color=unit(colour), linewidth=width, label=label)


def time_spent(rows: Sequence[TrialRow]) -> Figure:
    """Hours spent on trials that were finished, pruned and failed."""
    figure = new_figure(7, 2.6)
    axes = figure.subplots()
    for place, (state, colour) in enumerate(STATES.items()):
        chosen = [row for row in rows if row.state == state]
        minutes = sum(row.seconds for row in chosen) / 60
        axes.barh(place, minutes, color=unit(colour))
        count = f"{len(chosen)} trial{'' if len(chosen) == 1 else 's'}"
        axes.text(minutes, place, f"  {count}, {minutes:.1f} min", va="center", fontsize=9)
    axes.set_yticks(range(len(STATES)), list(STATES))
    axes.set_xlim(0, 1.4 * max(sum(r.seconds for r in rows) / 60, 1e-3))
    axes.invert_yaxis()
    tidy(axes, x="minutes, start to end of trial", y="", title="Where the time went")
    axes.grid(visible=False, axis="y")
    return figure


def pareto(rows: Sequence[TrialRow], second: str) -> Figure:
    """Dice against the second objective, and the trials that none beats in both."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    complete = [row for row in rows if row.state == "complete" and len(row.values) == 2]
    front = pareto_front(complete)
    axes.plot([r.values[1] for r in complete], [r.values[0] for r in complete], "o", color="0.7")
    axes.plot(
        [r.values[1] for r in front],
        [r.values[0] for r in front],
        "o-",
        color=unit(BLUE),
        label="front",
    )
    for row in front:
        axes.annotate(f" {row.number:03d}", (row.values[1], row.values[0]), fontsize=8)
    tidy(axes, x=COSTS.get(second, second), y="validation Dice", title="Pareto front")
    _legend(axes)
    return figure


def _integers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)

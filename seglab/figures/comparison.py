"""Figures of a comparison of arms: differences, patients, cost, and the way they learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from seglab.evaluation.comparison import ArmRow, ArmSummary
from seglab.evaluation.learning_curve import LearningCurve
from seglab.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RGB,
    SKY_BLUE,
    VERMILLION,
    new_figure,
    plain,
    tidy,
    unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH: Final = 11.5  # inches; a report of 1280 pixels shows the text at its size
ROW: Final = 0.42
VERDICT_COLOURS: Final[Mapping[str, RGB]] = {
    "better": GREEN,
    "worse": VERMILLION,
    "equivalent": BLUE,
    "undecided": GREY,
    "not ranked": GREY,
}
ARM_COLOURS: Final = (BLACK, BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE)
MARKERS: Final = "osD^vP"
FRONT: Final = "no other arm is\nbetter for less"
SIZE_COLOURS: Final[Mapping[str, RGB]] = {"small": SKY_BLUE, "medium": BLUE, "large": BLACK}
Curve = Sequence[tuple[int, float]]  # (epoch from 1, validation Dice) of a run


def arm_style(number: int) -> tuple[tuple[float, float, float], str]:
    """Colour and marker of the arm at this place, the same in every figure; the baseline's is 0."""
    colour = ARM_COLOURS[number % len(ARM_COLOURS)]
    return unit(colour), MARKERS[(number // len(ARM_COLOURS) + number) % len(MARKERS)]


def forest(
    rows: Sequence[ArmRow], verdicts: Mapping[str, str], baseline: str, margin: float, level: float
) -> Figure:
    """Draw each arm's mean difference to the baseline with its interval of confidence ``level``."""
    figure = new_figure(WIDTH, 1.5 + ROW * len(rows))
    axes = figure.subplots()
    _zero_and_margin(axes, margin)
    confidence = ""
    for place, row in enumerate(rows):
        verdict = verdicts[row.arm]
        colour = unit(VERDICT_COLOURS.get(verdict, GREY))
        limits = "no interval"
        if np.isfinite([row.ci_low, row.ci_high]).all():
            axes.plot([row.ci_low, row.ci_high], [place, place], color=colour, linewidth=2.4)
            limits = f"{row.ci_low:+.3f} to {row.ci_high:+.3f}"
            confidence = f", {100 * level:.3g} % interval"
        axes.plot(row.diff, place, "o", color=colour, markersize=8)
        text = f"{row.diff:+.3f}   {limits}   {verdict}".replace("-", "−")
        axes.text(
            1.01, place, text, transform=axes.get_yaxis_transform(), va="center", color=colour
        )
    _arm_rows(axes, [row.arm for row in rows])
    tidy(
        axes,
        x=f"difference in patient Dice to {plain(baseline)}{confidence} "
        f"(shaded: ±{margin:g}, too small to matter)",
        y="",
    )
    return figure


def patient_swarm(
    differences: Mapping[str, Sequence[float]], sizes: Sequence[str], baseline: str, margin: float
) -> Figure:
    """Draw every patient's difference to the baseline, a row an arm.

    ``sizes`` are ``small``, ``medium`` or ``large``, in the order of each arm's differences.
    """
    figure = new_figure(WIDTH, 1.7 + 1.6 * ROW * len(differences))
    axes = figure.subplots()
    _zero_and_margin(axes, margin)
    for place, values in enumerate(map(np.array, differences.values())):
        heights = place + swarm_offsets(values)
        for size, colour in SIZE_COLOURS.items():
            mine = np.array(sizes) == size
            label = f"{size} tumour" if place == 0 and mine.any() else None
            axes.scatter(
                values[mine], heights[mine], s=20, color=unit(colour), alpha=0.75, label=label
            )
        axes.plot(
            [values.mean()] * 2, [place - 0.42, place + 0.42], color=unit(VERMILLION), linewidth=2
        )
    _arm_rows(axes, list(differences))
    axes.plot([], [], color=unit(VERMILLION), linewidth=2, label="mean")
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    tidy(axes, x=f"difference in Dice to {plain(baseline)}, one point a patient", y="")
    return figure


def order_bar(arms: Sequence[ArmSummary]) -> Figure:
    """Draw one bar, divided by the share of resamples in which each arm, baseline first, wins."""
    figure = new_figure(WIDTH, 1.6)
    axes: Any = figure.subplots()
    left = 0.0
    for number, arm in enumerate(arms):
        axes.barh(0, arm.share_first, left=left, color=arm_style(number)[0], edgecolor="white")
        if arm.share_first >= 0.05:  # there is room for the figure
            text = f"{arm.share_first:.0%}"
            axes.text(left + arm.share_first / 2, 0, text, color="white", ha="center", va="center")
        left += arm.share_first
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    tidy(axes, x="share of resamples of the patients in which the arm has the highest mean", y="")
    _arm_legend(figure, [arm.arm for arm in arms], bar=True)
    return figure


def swarm_offsets(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread points that lie close together: (n,) offsets in [-0.36, 0.36].

    Points of one of 40 bins are placed about the middle, in turn above and below.
    """
    offsets = np.zeros(len(values))
    bins = np.floor((values - values.min()) / (np.ptp(values) / 40 or 1.0))
    numbers, counts = np.unique(bins, return_counts=True)
    step = min(0.09, 0.72 / counts.max())
    for number in numbers:
        members = np.flatnonzero(bins == number)
        turns = np.arange(len(members))
        offsets[members] = np.where(turns % 2, 1, -1) * np.ceil(turns / 2) * step
    return offsets


def interaction_plot(
    levels: Mapping[str, Sequence[str]],
    panels: Mapping[tuple[str, str], tuple[NDArray[np.float64], str]],
) -> Figure:
    """Draw mean Dice over the levels of a factor, a line for each level of a second one.

    ``levels`` are the labels of each factor's levels; ``panels`` have the mean Dice of a pair,
    (levels of the first, levels of the second), and a title.
    """
    columns = max(2, min(3, len(panels)))
    rows = -(-len(panels) // columns)
    figure = new_figure(WIDTH, 3.6 * rows)
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, ((first, second), (means, title)) in enumerate(panels.items()):
        axes = grid[place // columns, place % columns]
        for number, (label, line) in enumerate(zip(levels[second], means.T, strict=True)):
            colour, marker = arm_style(number)
            axes.plot(line, marker=marker, color=colour, linewidth=2, label=f" {plain(label)}")
        axes.set_xticks(range(len(levels[first])), [plain(label) for label in levels[first]])
        axes.margins(x=0.15)
        axes.legend(title=plain(second), frameon=False)
        tidy(axes, x=plain(first), y="" if place % columns else "mean Dice", title=title)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    return figure


def patients_curve(curve: LearningCurve) -> Figure:
    """Draw Dice over the number of training patients, with the power law to twice the largest."""
    figure = new_figure(WIDTH, 4.2)
    axes: Any = figure.subplots()
    sizes, largest = [point.patients for point in curve.points], curve.points[-1].patients
    if curve.law is not None:
        x = np.geomspace(sizes[0], 2 * largest, 100)
        dice, low, high = curve.predict(x)
        inside = x <= largest
        axes.fill_between(x, low, high, color=unit(BLUE), alpha=0.12, linewidth=0)
        axes.plot(x[inside], dice[inside], color=unit(BLUE), label="power law")
        axes.plot(x[~inside], dice[~inside], "--", color=unit(BLUE), label="extrapolated")
    for point in curve.points:
        axes.plot([point.patients] * 2, [point.low, point.high], color=unit(BLACK), linewidth=1.5)
    axes.plot(sizes, [p.dice for p in curve.points], "o", color=unit(BLACK), label="measured")
    axes.set_xscale("log")
    ticks = [*sizes, *([2 * largest] if curve.law is not None else [])]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")
    tidy(axes, x="training patients", y="patient Dice")
    return figure


def pareto(
    arms: Sequence[ArmSummary], costs: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]
) -> Figure:
    """Draw Dice against each cost that has a label, with the arms on the front joined.

    The baseline comes first of the arms.
    """
    figure, fronts = new_figure(WIDTH, 4.4), []
    panels = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        points = [(costs[arm.arm][key], arm.mean) for arm in arms]
        for number, (arm, (x, mean)) in enumerate(zip(arms, points, strict=True)):
            colour, marker = arm_style(number)
            if np.isfinite([arm.mean_low, arm.mean_high]).all():
                axes.plot([x, x], [arm.mean_low, arm.mean_high], color=colour, alpha=0.35, zorder=1)
            axes.plot(x, mean, marker, color=colour, markersize=8, zorder=3)
        if len(front := pareto_front(points)) > 1:
            fronts += axes.step(
                *zip(*front, strict=True), "--", where="post", color="0.6", zorder=2, label=FRONT
            )
        tidy(axes, x=label, y="patient Dice" if axes is panels[0] else "")
        axes.set_xlim(0, 1.08 * max(x for x, _ in points) or 1)
    _arm_legend(figure, [arm.arm for arm in arms], fronts[:1])
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep the (cost, quality) points that no other has for less, in ascending cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def arms_learning(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw validation Dice over epochs: a thin line a run, a thick one for the arm's mean.

    The baseline comes first; runs may differ in their number of epochs.
    """
    figure = new_figure(WIDTH, 4.4)
    axes: Any = figure.subplots()
    for number, of_arm in enumerate(curves.values()):
        colour, marker = arm_style(number)
        for curve in of_arm:
            axes.plot(*zip(*curve, strict=True), color=colour, alpha=0.25, linewidth=1)
        axes.plot(mean_curve(of_arm), color=colour, marker=marker, markersize=4, linewidth=2)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    tidy(axes, x="epoch", y="validation Dice")
    _arm_legend(figure, list(curves))
    return figure


def mean_curve(curves: Sequence[Curve]) -> pd.Series:
    """Average curves over the epochs that all of them have."""
    return pd.DataFrame(map(dict, curves)).mean(skipna=False).dropna().sort_index()


def _zero_and_margin(axes: Axes, margin: float) -> None:
    axes.axvspan(-margin, margin, color="0.93", zorder=0)
    axes.axvline(0, color="0.3", linewidth=1, zorder=1)


def _arm_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)


def _arm_legend(
    figure: Figure, names: Sequence[str], more: Sequence[Line2D] = (), *, bar: bool = False
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    styles = [arm_style(number) for number in range(len(names))]
    handles: list[Any] = [
        Patch(color=c) if bar else Line2D([], [], color=c, marker=marker, linewidth=1.5)
        for c, marker in styles
    ]
    # A leading underscore would hide the entry.
    labels = [*(f" {plain(name)}" for name in names), *(str(one.get_label()) for one in more)]
    figure.legend([*handles, *more], labels, loc="outside right upper", frameon=False)

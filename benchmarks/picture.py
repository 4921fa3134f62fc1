"""The picture of where the time of a training epoch goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import figure
from benchmarks.run import Row
from seglab.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RGB,
    SKY_BLUE,
    VERMILLION,
    new_figure,
    unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIME = "time.png"
COLOURS: dict[str, RGB] = {
    "forward": BLUE,
    "backward": SKY_BLUE,
    "loss": PURPLE,
    "optimizer": GREEN,
    "waiting for batches": VERMILLION,
    "validation": ORANGE,
}
SMALL = "logging, checkpoint, the rest"
"""What the parts without a colour of their own are drawn as."""
LABELLED = 4
"""Percent of the bar that have room for a figure."""


def draw_time(rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw a bar for every row that tells where its time went; None if none does.

    Returns:
        The picture's file in ``folder``, which is made.
    """
    split = [row for row in rows if row.measured is not None and row.measured.split]
    if not split:
        return None
    drawing = new_figure(9, 1.3 + 0.7 * len(split))
    axes = drawing.subplots()
    for place, row in enumerate(split):
        assert row.measured is not None
        _bar(axes, place, row.measured.split)
    axes.set_yticks(range(len(split)), [_name(row) for row in split])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of a training epoch's time")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    drawing.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=5, frameon=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    drawing.savefig(folder / TIME)
    return folder / TIME


def _name(row: Row) -> str:
    assert row.measured is not None
    return f"{row.stage.name}\n{figure(row.measured.ours)} {row.stage.unit}"


def _bar(axes: Axes, place: int, split: Mapping[str, float]) -> None:
    """One bar, its parts in the order of ``COLOURS`` and the small ones last."""
    total, left = sum(split.values()), 0.0
    small = sum(seconds for part, seconds in split.items() if part not in COLOURS)
    for part in [*COLOURS, SMALL]:
        seconds = small if part == SMALL else split.get(part, 0.0)
        share = 100 * seconds / total
        colour = unit(COLOURS.get(part, GREY))
        axes.barh(place, share, left=left, color=colour, height=0.6, label=part)
        if share >= LABELLED:
            middle = left + share / 2
            axes.text(middle, place, f"{share:.0f}", ha="center", va="center", color="white")
        left += share

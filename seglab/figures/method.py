"""Pictures of what a training is made of: its data, its augmentation, its network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from seglab.data.identity import TITLES
from seglab.figures.sheets import PARTS, SCALE, black_grid, show
from seglab.figures.slices import brain_window, cut, draw_slice, outline, radiological
from seglab.figures.style import BLUE, GREY, ORANGE, UInt8, new_figure, plain, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL: Final = 2.3  # inches
MOST_STAGES: Final = 17


def data_sheet(
    examples: Sequence[tuple[str, UInt8, UInt8]], modalities: Sequence[str], upright: bool
) -> Figure:
    """Draw a row a slice: every modality, then the first one with the parts of its tumour.

    An example has a caption, images (M, H, W) as stored in the source, where 0 is background, and
    labels (H, W), see :mod:`seglab.data.labels`.
    """
    from matplotlib.lines import Line2D

    columns = len(modalities) + 1
    figure, grid = black_grid(
        len(examples), columns, PANEL * max(columns, 3), PANEL * len(examples) + 0.6
    )
    for row, (caption, stored, parts) in zip(grid, examples, strict=True):
        images = radiological(stored, upright)
        window = brain_window(images, 1.0)
        labels = cut(radiological(parts, upright), window)
        drawn = [draw_slice(one, SCALE) for one in cut(images, window)]
        marked = drawn[0].copy()
        for part, (_, colour) in PARTS.items():
            outline(marked, labels == part, colour, SCALE, max(2, len(marked) // 140))
        for axes, picture in zip(row, [*drawn, marked], strict=True):
            show(axes, picture, "")
        row[0].set_xlabel(plain(caption), color="0.85", fontsize=9, labelpad=2)
    for axes, name in zip(grid[0], [*(TITLES[one] for one in modalities), "tumour"], strict=True):
        axes.set_title(name, color="white", fontsize=10)
    present = np.unique(np.concatenate([labels.ravel() for _, _, labels in examples]))
    shown = [PARTS[part] for part in PARTS if part in present]
    handles = [Line2D([], [], color=unit(colour), label=word) for word, colour in shown]
    text: dict[str, Any] = {"labelcolor": "white", "fontsize": 9, "frameon": False}
    figure.legend(handles=handles, loc="outside upper center", ncols=3, **text)
    return figure


def augmentation_sheet(images: UInt8, masks: UInt8, upright: bool) -> Figure:
    """Draw one slice as it is, then as augmented; images and masks (N, H, W)."""
    columns = math.ceil(len(images) / 2)
    figure, grid = black_grid(2, columns, PANEL * columns, 2 * PANEL + 0.5)
    for number, (axes, image, mask) in enumerate(zip(grid.flat, images, masks, strict=False)):
        drawn = draw_slice(radiological(image, upright), SCALE, sides="")  # some are mirrored
        outline(drawn, radiological(mask, upright) != 0, ORANGE, SCALE, 1)
        show(axes, drawn, "augmented" if number else "as it is")
    return figure


def network_drawing(stages: Sequence[tuple[int, int, int]], channels: int) -> Figure | None:
    """Draw what :func:`seglab.models.stages` found, lower where the resolution is lower.

    Equal resolutions on both sides are joined by a dashed line. None for too many stages.
    """
    if not 2 <= len(stages) <= MOST_STAGES:
        return None
    full = stages[0][1]
    levels = [round(math.log2(full / height), 2) for _, height, _ in stages]
    figure = new_figure(1.3 * (len(stages) + 2), 1.1 + 0.8 * max(1.0, *levels))
    axes = figure.subplots()
    ends = [(f"input\n{channels} ch", levels[0]), ("output\n1 ch", levels[-1])]
    inner = [
        (f"{count} ch\n{high}×{wide}", level)
        for (count, high, wide), level in zip(stages, levels, strict=True)
    ]
    boxes = [ends[0], *inner, ends[1]]
    for place, (text, level) in enumerate(boxes):
        colour = unit(GREY if place in (0, len(boxes) - 1) else BLUE)
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour}
        axes.text(place, -level, text, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
        if place:
            before = (place - 1, -boxes[place - 1][1])
            arrow = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 24, "shrinkB": 24}
            axes.annotate("", (place, -level), before, arrowprops=arrow)
    deepest = int(np.argmax(levels))
    for left in range(deepest):
        for right in range(deepest + 1, len(stages)):
            if stages[left][1:] == stages[right][1:]:
                axes.plot([left + 1.42, right + 0.58], [-levels[left]] * 2, "--", color="0.6")
    axes.set_xlim(-0.6, len(boxes) - 0.4)
    axes.set_ylim(-max(levels) - 0.5, 0.5 - min(levels))
    axes.axis("off")
    return figure

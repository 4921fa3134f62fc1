"""All channels and mask planes of one slice, side by side: is the chosen channel FLAIR?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from seglab.data.check import ChannelEvidence, CheckReport
from seglab.data.identity import tissue
from seglab.data.sources import Source
from seglab.figures.panels import radiological
from seglab.figures.style import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI: Final = 110
PANEL_INCHES: Final = 3.0
MARGIN_PX: Final = 4
"""Image pixels kept around the head."""
PAPER: Final = (0.07, 0.07, 0.08)
PLANE_COLOURS: Final = (SKY_BLUE, ORANGE, PURPLE, BLUE)


def identity_sheet(source: Source, report: CheckReport) -> NDArray[np.uint8]:
    """Draw the slice with most tumour of the checked set, in radiological orientation.

    The chosen channel has a frame, green where it looks like FLAIR and vermillion where it
    does not; under each channel stand the figures that decided, as medians over patients.

    Returns:
        (height, width, 3) RGB uint8.

    Raises:
        ValueError: the report has no example, because no file could be read.
        UserError: the example's file has gone since.
    """
    if report.example is None:
        raise ValueError("no slice could be read, so there is nothing to draw")
    image, planes, _ = source.read_channels(report.example.path)
    if image.ndim == 4:
        image, planes = image[:, report.example.position], planes[:, report.example.position]
    image, planes = radiological(image, source.upright), radiological(planes, source.upright)
    rows, columns = _window(image[report.identity.channel])
    image, planes = image[:, rows, columns], planes[:, rows, columns]
    figure, grid = _figure(max(len(image), len(planes) + 1), image.shape[1] / image.shape[2])
    _draw_channels(grid[0], image, report)
    _draw_planes(grid[1], image[report.identity.channel], planes, source.plane_names)
    _write_title(figure, report)
    return _pixels(figure)


def _window(image: NDArray[np.float32]) -> tuple[slice, slice]:
    head, _ = tissue(np.ascontiguousarray(image))
    if not head.any():
        return slice(None), slice(None)
    sides = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, s[0] - MARGIN_PX), s[-1] + 1 + MARGIN_PX) for s in sides)
    return rows, columns


def _figure(columns: int, aspect: float) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    size = (PANEL_INCHES * columns + 0.3, 2 * PANEL_INCHES * aspect + 2.9)
    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER)
    below_title = (0.003, 0.005, 0.994, 1 - 0.85 / size[1] - 0.005)
    figure.set_layout_engine("constrained", rect=below_title)
    axes = figure.subplots(2, columns, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
    return figure, [list(row) for row in axes]


def _draw_channels(row: Sequence[Axes], image: NDArray[np.float32], report: CheckReport) -> None:
    for axes, channel, evidence in zip(row, image, report.identity.channels, strict=False):
        chosen = evidence.channel == report.identity.channel
        colour: str | tuple[float, float, float] = "0.8"
        if chosen:
            colour = unit(GREEN if report.identity.ok else VERMILLION)
            _frame(axes, colour)
        _show(axes, channel)
        heading = f"channel {evidence.channel}: {evidence.name}" + (" (chosen)" if chosen else "")
        axes.set_title(heading, color=colour, fontsize=12, weight="bold" if chosen else "normal")
        axes.text(
            0.5, -0.03, _figures(evidence), transform=axes.transAxes,
            ha="center",
            va="top",
            color="0.85",
            fontsize=9.5,
            linespacing=1.25,
        )  # fmt: skip


def _draw_planes(
    row: Sequence[Axes],
    chosen: NDArray[np.float32],
    planes: NDArray[np.uint8],
    names: Sequence[str],
) -> None:
    panels = list(zip(planes, names, PLANE_COLOURS, strict=False))
    if len(planes) > 1:
        panels.append((planes.max(axis=0), "all planes merged", GREEN))
    for axes, (plane, name, colour) in zip(row, panels, strict=False):
        _show(axes, chosen)
        tint = np.zeros((*plane.shape, 4))
        tint[plane > 0] = (*unit(colour), 0.6)
        axes.imshow(tint, interpolation="nearest")
        axes.set_title(f"mask: {name}, {int(plane.sum()):,} px", color="0.8", fontsize=11)


def _show(axes: Axes, image: NDArray[np.float32]) -> None:
    if np.isnan(image).all():
        axes.imshow(np.zeros_like(image), cmap="gray", vmin=0, vmax=1)
        axes.text(0.5, 0.5, "no file", transform=axes.transAxes, ha="center", color="0.6")
        return
    low, high = np.percentile(image, (1, 99.7))
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="bicubic")
    for letter, place, side in (("R", 0.02, "left"), ("L", 0.98, "right")):
        axes.text(
            place, 0.98, letter, transform=axes.transAxes,
            ha=side, va="top", color="0.85", fontsize=10,
        )  # fmt: skip


def _frame(axes: Axes, colour: object) -> None:
    from matplotlib.patches import Rectangle

    edge = Rectangle(
        (0, 0), 1, 1, transform=axes.transAxes, fill=False, linewidth=5, edgecolor=colour,
        clip_on=False, zorder=5,
    )  # fmt: skip
    axes.add_patch(edge)


def _figures(evidence: ChannelEvidence) -> str:
    if not evidence.patients:
        return "not measured"
    figures = (
        ("tumour {:+.1f} σ", evidence.lesion_z),
        ("located CSF {:+.1f} σ", evidence.csf_z),
        ("CSF brightness {:+.2f}", evidence.csf_brightness),
        ("enhancing minus necrosis {:+.1f} σ", evidence.enhancement_z),
    )
    known = [words.format(value) for words, value in figures if not math.isnan(value)]
    return "\n".join([f"looks like {evidence.looks_like}", *known]).replace("-", "−")


def _write_title(figure: Figure, report: CheckReport) -> None:
    import textwrap

    assert report.example is not None
    width, height = figure.get_size_inches()
    colour = unit(GREEN if report.identity.ok else VERMILLION)
    verdict = "\n".join(textwrap.wrap(report.identity.reason, int(width * 10)))
    figure.text(
        0.15 / width,
        1 - 0.1 / height,
        verdict,
        color=colour,
        fontsize=11.5,
        weight="bold",
        va="top",
    )
    note = (
        f"{report.example.patient_id}, {report.example.path.name} · figures: medians over patients"
        " · R = patient's right, anterior on top"
    )
    figure.text(0.15 / width, 1 - 0.62 / height, note, color="0.65", fontsize=10, va="top")


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])

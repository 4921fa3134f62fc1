"""Sheets of slices: patients with their overlays or under every arm, a scan, a data set."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import MODALITIES
from seglab.data.check import CheckReport
from seglab.data.identity import TITLES, find_head
from seglab.data.labels import ENHANCING, NON_ENHANCING, OEDEMA, UNKNOWN_PART
from seglab.data.names import SYNTHETIC
from seglab.data.sources.base import Source
from seglab.evaluation.failure_report import told_finding
from seglab.evaluation.failures import Explanation
from seglab.evaluation.metrics import Case, dice, slice_counts
from seglab.evaluation.scores import score_rows
from seglab.figures import style
from seglab.figures.comparison import WIDTH
from seglab.figures.slices import (
    brain_window,
    cut,
    draw_overlay,
    draw_slice,
    outline,
    radiological,
    views,
)
from seglab.figures.sprites import worst_position
from seglab.figures.style import UInt8, marked, new_figure, overlay_legend, plain, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALE: Final = 3
"""Screen pixels of an image pixel, before the figure is drawn."""
COLUMNS, PANELS = 4, 8
"""Of the sheet of a predicted scan."""
PANEL_INCHES: Final = 3.4
PAIRS: Final = 3
"""Slices of a row of overlays, at most."""
ASPECT: Final = 5 / 6
"""Width over height of a panel of overlays."""
PARTS: Final[dict[int, tuple[str, style.RGB]]] = {
    OEDEMA: ("oedema", style.ORANGE),
    NON_ENHANCING: ("core without enhancement", style.SKY_BLUE),
    ENHANCING: ("enhancing tumour", style.PURPLE),
    UNKNOWN_PART: ("tumour", style.YELLOW),
}
COLOURS: Final = {"proven": style.GREEN, "not provable": style.YELLOW, "wrong": style.VERMILLION}


def black_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, NDArray[Any]]:
    """A black figure of empty panels."""
    figure = new_figure(width, height)
    figure.set_facecolor("black")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], facecolor="none")
        axes.spines[:].set_visible(False)
    return figure, grid


def show(axes: Axes, picture: UInt8, caption: str) -> None:
    """Draw a picture with a caption below it."""
    axes.imshow(picture, interpolation="antialiased")
    axes.set_xlabel(caption, color="0.85", fontsize=9, labelpad=2)


def arm_sheet(arms: Mapping[str, Iterable[Case]], patients: int) -> Figure:
    """Draw a row an arm: every patient on the slice with the most tumour, which stands on top.

    Cases are taken one at a time, so iterators keep memory small.
    """
    rows = len(arms) + 1
    height = rows * WIDTH / (patients + 0.16) * 1.04 + 0.9
    figure, grid = black_grid(rows, patients, WIDTH, height)
    for number, (arm, cases) in enumerate(arms.items(), start=1):
        grid[number, 0].set_ylabel(plain(arm), color="white", fontsize=10)
        for axes, top, case in zip(grid[number], grid[0], cases, strict=True):
            at = int(case.truth.sum(axis=(1, 2)).argmax())
            (seen,) = views(case, [at], 1.0)
            show(axes, draw_overlay(*seen, SCALE), f"Dice {case.score.dice:.3f}")
            if number == 1:
                name = case.patient_id
                short = name if len(name) <= 24 else f"…{name[-23:]}"
                top.set_title(plain(short), color="white", fontsize=9, pad=3)
                show(top, draw_slice(seen[0], SCALE), f"slice {case.slice_indices[at]}")
                grid[0, 0].set_ylabel(f"{TITLES[case.modality]} image", color="white", fontsize=10)
    overlay_legend(figure, "center")
    return figure


def choose_slices(truth: UInt8, prediction: UInt8) -> dict[int, str]:
    """Choose up to three slices of (S, H, W) masks: largest tumour, most missed, most false.

    A rule without a single pixel to show gives nothing; a case without any shows its middle slice.
    Returns the rules that chose a slice, by its position.
    """
    tumour, predicted = truth != 0, prediction != 0
    areas = {
        "largest tumour": tumour,
        "most missed": tumour & ~predicted,
        "most false alarm": predicted & ~tumour,
    }
    shown: dict[int, str] = {}
    for rule, area in areas.items():
        counts = area.sum(axis=(1, 2))
        if counts.any():
            at = int(counts.argmax())
            shown[at] = f"{shown[at]}, {rule}" if at in shown else rule
    return shown or {len(truth) // 2: "middle slice"}


def overlay_sheet(cases: Sequence[Case], title: str, label: str = "") -> Figure:
    """Draw the chosen slices of cases, each image beside its overlay, at the same size always.

    A case has a row; where all have one slice, three share it. ``label``, such as "worst", stands
    before each patient's id.
    """
    chosen = [choose_slices(case.truth, case.prediction) for case in cases]
    most = max(map(len, chosen))
    shared = PAIRS // most  # cases in a row
    rows, across = math.ceil(len(cases) / shared), max(2, most * min(shared, len(cases)))
    lines = math.ceil(PAIRS / most)
    height = rows * (2.75 + 0.17 * lines) + 0.75
    figure, grid = black_grid(rows, 2 * across, WIDTH * across / PAIRS, height)
    overlay_legend(figure, "left", plain(title))
    modality = TITLES[cases[0].modality]
    note = f"left: {modality}, right: overlay · R = patient's right, anterior on top"
    figure.supxlabel(note, color="0.65", fontsize=9)
    pairs = iter(grid.reshape(-1, 2))
    for case, slices in zip(cases, chosen, strict=True):
        row = [next(pairs) for _ in range(most)]
        figures = ", ".join(map("\N{NO-BREAK SPACE}".join, score_rows(case.score).items()))
        words = textwrap.fill(f"{label} {case.patient_id}: {figures}".strip(), 48 * most)
        first = row[0][0]
        above = first.text(
            0, 1.02, plain(words), transform=first.transAxes, color="white", fontsize=10
        )
        above.set_in_layout(False)  # Its width is not the panel's; the next line keeps its height.
        first.set_title(" " + "\n" * words.count("\n"), fontsize=10)
        shown, scores = views(case, slices, ASPECT), dice(slice_counts(case.prediction, case.truth))
        for pair, seen, (at, rules) in zip(row, shown, slices.items(), strict=False):
            show(pair[0], draw_slice(seen[0], SCALE), "")
            show(pair[1], draw_overlay(*seen, SCALE), "")
            told = f"Dice {scores[at]:.2f}" if math.isfinite(scores[at]) else "no tumour"
            caption = f"slice {case.slice_indices[at]} · {told}\n{rules}"
            pair[0].set_xlabel(caption, color="0.85", fontsize=9, loc="left")
    return figure


def failure_sheet(case: Case, explanation: Explanation) -> Figure:
    """Draw the image beside its overlay where the region that the text describes is largest."""
    told = told_finding(explanation)
    at, caption = worst_position(case), "of all slices the most wrong pixels"
    if told:
        at = int(np.flatnonzero(case.slice_indices == told.peak_slice)[0])
        caption = f"where the {told.kind} of the text is largest"
    (seen,), index = views(case, [at], 1.0), case.slice_indices[at]
    figure, grid = black_grid(1, 2, 2 * PANEL_INCHES, PANEL_INCHES + 0.7)
    show(grid[0, 0], draw_slice(seen[0], SCALE), f"{TITLES[case.modality]}, slice {index}")
    show(grid[0, 1], draw_overlay(*seen, SCALE), caption)
    overlay_legend(figure, "center")
    return figure


def prediction_sheet(
    image: UInt8,
    mask: NDArray[np.bool_],
    slice_indices: NDArray[np.int32],
    *,
    upright: bool,
    title: Sequence[str],
    doubt: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw up to eight slices spread over the prediction, or over the brain where there is none.

    Lines of ``title`` after the first are wrapped to the width, to two at most. Image (0 is
    background), mask and ``doubt``, where an ensemble's networks disagree, are (S, H, W);
    ``slice_indices`` (S,) are as each slice is called. ``upright`` is False where slices lie on
    their side.
    """
    shown = _spread(mask if mask.any() else image > 0)
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    width = 2.7 * max(columns, 2)
    fitting = textwrap.TextWrapper(int(10 * width), max_lines=2, placeholder=" …")
    lines = [title[0], *(part for line in title[1:] for part in fitting.wrap(line))]
    figure, grid = black_grid(rows, columns, width, 3 * rows + 0.2 * len(lines) + 0.2)
    figure.suptitle(plain("\n".join(lines)), color="0.85", fontsize=11, x=0.01, ha="left")
    window = brain_window(radiological(image, upright))
    for axes, index in zip(grid.flat, shown, strict=False):
        grey, predicted = (cut(radiological(one[index], upright), window) for one in (image, mask))
        drawn = draw_slice(grey, SCALE)
        if doubt is not None:
            outline(drawn, cut(radiological(doubt[index], upright), window), style.BLUE, SCALE, 1)
        outline(drawn, predicted, style.ORANGE, SCALE, 2)
        count = f", {mask[index].sum()} px" if mask[index].any() else ""
        show(axes, drawn, f"slice {slice_indices[index]}{count}")
    return figure


def _spread(content: NDArray[np.bool_]) -> list[int]:
    """Slices at even steps over those with content; the largest is among them."""
    areas = content.sum(axis=(1, 2))
    filled = np.flatnonzero(areas)
    if len(filled) == 0:
        return [len(content) // 2]
    places = np.linspace(0, len(filled) - 1, min(PANELS, len(filled))).round().astype(int)
    chosen = filled[np.unique(places)]
    largest = int(areas.argmax())
    chosen[np.abs(chosen - largest).argmin()] = largest
    return [int(index) for index in np.unique(chosen)]


def identity_sheet(source: Source, report: CheckReport) -> Figure:
    """Draw all modalities of the slice with most tumour of the checked set, side by side.

    Each modality is framed in the colour of its verdict; below it stand the figures that
    decided, medians over patients.
    """
    assert report.example is not None
    name, place = report.example
    patient = next(each for each in source.patients() if each.patient_id == name)
    volume = source.read(patient, [one for one in MODALITIES if one in patient.images])
    images = radiological(volume.images[:, place], source.upright)
    labels = radiological(volume.labels[place], source.upright)
    window = brain_window(find_head(images[0])[0][None])
    judged = {one.modality: one for one in report.identity.modalities}
    columns = len(images)
    figure, grid = black_grid(1, columns, PANEL_INCHES * columns, PANEL_INCHES + 1.9)
    for axes, image, modality in zip(grid[0], images, volume.modalities, strict=True):
        low, high = np.percentile(image, (1, 99.7))
        grey = np.interp(image, (low, max(high, low + 1e-6)), (0, 255)).astype(np.uint8)
        drawn = draw_slice(cut(grey, window), SCALE)
        for part, (_, colour) in PARTS.items():
            outline(drawn, cut(labels, window) == part, colour, SCALE, 2)
        one = judged[modality]
        verdict = unit(COLOURS[one.verdict])
        show(axes, drawn, "")
        axes.spines[:].set(visible=True, color=verdict, linewidth=4)
        axes.set_title(f"{modality}: {one.verdict}", color=verdict, fontsize=12)
        words = textwrap.fill(f"{one.reason}; {one.patients} patients", 46)
        axes.set_xlabel(words, color="0.85", fontsize=9, loc="left")
    title = f"{plain(name)}, slice {volume.slice_indices[place]} (R: the patient's right)"
    figure.suptitle(title, color="0.85", fontsize=11, x=0.01, ha="left")
    marked(figure, SYNTHETIC if source.phantom else "")
    for number, part in enumerate(np.unique(labels[labels > 0]), start=1):
        word, colour = PARTS[part]
        where = (1 - 0.16 * number, 0.99)
        figure.text(*where, word, color=unit(colour), fontsize=10, va="top")
    return figure

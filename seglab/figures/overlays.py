"""A contact sheet of overlays: one row a patient, slices chosen by rule."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.metrics import Case
from seglab.figures.panels import draw_flair, draw_overlay, radiological
from seglab.figures.style import AGREEMENT, FALSE_ALARM, MISSED, unit
from seglab.figures.window import Window, brain_window, cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Case", "draw_flair", "draw_overlay", "overlay_sheet"]

UInt8 = NDArray[np.uint8]

PANEL_HEIGHT: Final = 360
PANEL_WIDTH: Final = 300
GAP: Final = 8
CAPTION: Final = 26
HEADER: Final = 92
LABEL: Final = 230
DPI: Final = 100
BACKGROUND: Final = (18, 18, 20)
MINIMUM_DISTANCE: Final = 4
"""Slices between two that are shown, so that they do not show the same thing twice."""


@dataclass(frozen=True)
class Shown:
    """A slice of a case and the rule that chose it."""

    position: int
    rule: str


def choose_slices(truth: UInt8, prediction: UInt8) -> tuple[Shown, ...]:
    """Choose up to three slices of (S, H, W) masks: largest tumour, most missed, most false.

    Each is at least :data:`MINIMUM_DISTANCE` slices from the others. A rule without a
    single pixel to show gives nothing; a case without any shows its middle slice.
    """
    tumour = truth != 0
    predicted = prediction != 0
    areas = {
        "largest tumour": tumour,
        "most missed": tumour & ~predicted,
        "most false alarm": predicted & ~tumour,
    }
    shown: list[Shown] = []
    for rule, area in areas.items():
        pixels = area.sum(axis=(1, 2))
        for other in shown:
            near = slice(max(0, other.position - MINIMUM_DISTANCE + 1), None)
            pixels[near][: 2 * MINIMUM_DISTANCE - 1] = 0
        if pixels.any():
            shown.append(Shown(int(pixels.argmax()), rule))
    return tuple(shown) or (Shown(len(truth) // 2, "middle slice"),)


def overlay_sheet(cases: Sequence[Case], title: str, labels: Sequence[str] | None = None) -> UInt8:
    """Draw a row a case: FLAIR beside its overlay, for each chosen slice.

    Args:
        cases: patients, in the order of the rows; any number from one.
        title: written on top.
        labels: a word a case ("worst", "median", …) above its id.

    Returns:
        (height, width, 3) RGB uint8, about 2100 pixels wide.

    Raises:
        ValueError: no cases, or another number of labels.
    """
    if not cases or (labels is not None and len(labels) != len(cases)):
        raise ValueError("a sheet needs at least one case, and one label a case")
    chosen = [choose_slices(case.truth, case.prediction) for case in cases]
    width = LABEL + max(map(len, chosen)) * (2 * PANEL_WIDTH + GAP) + GAP
    width = max(width, LABEL + 2 * (2 * PANEL_WIDTH + GAP) + GAP)
    height = HEADER + len(cases) * (PANEL_HEIGHT + CAPTION + GAP)
    canvas = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    figure = _figure(width, height)
    _write_header(figure, title)
    for row, (case, slices) in enumerate(zip(cases, chosen, strict=True)):
        top = HEADER + row * (PANEL_HEIGHT + CAPTION + GAP)
        _write_label(figure, case, top, labels[row] if labels else "")
        window = brain_window(radiological(case.image, case.upright), PANEL_WIDTH / PANEL_HEIGHT)
        for column, shown in enumerate(slices):
            left = LABEL + column * (2 * PANEL_WIDTH + GAP)
            _place_pair(canvas, case, shown.position, window, top, left)
            _write(
                figure, left, top + PANEL_HEIGHT + 4, _caption(case, shown), size=9.5, colour="0.75"
            )
    figure.figimage(canvas, zorder=-1)
    return _pixels(figure)


def _place_pair(
    canvas: UInt8, case: Case, position: int, window: Window, top: int, left: int
) -> None:
    image, truth, prediction = (
        cut(radiological(array[position], case.upright), window)
        for array in (case.image, case.truth, case.prediction)
    )
    scale = math.ceil(PANEL_HEIGHT / image.shape[0]) + 1
    pair = (
        draw_flair(image, upright=True, scale=scale),
        draw_overlay(image, truth, prediction, upright=True, scale=scale),
    )
    for place, panel in enumerate(pair):
        start = left + place * PANEL_WIDTH
        canvas[top : top + PANEL_HEIGHT, start : start + PANEL_WIDTH] = cv2.resize(
            panel, (PANEL_WIDTH, PANEL_HEIGHT), interpolation=cv2.INTER_AREA
        )


def _caption(case: Case, shown: Shown) -> str:
    truth = case.truth[shown.position] != 0
    prediction = case.prediction[shown.position] != 0
    total = int(truth.sum() + prediction.sum())
    dice = f"Dice {2 * int((truth & prediction).sum()) / total:.2f}" if total else "no tumour"
    return f"slice {case.slice_indices[shown.position]} · {shown.rule} · {dice}"


def _figure(width: int, height: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def _write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    colour: str,
    weight: str = "normal",
) -> None:
    """Write ``text`` with its top left corner at pixel (x, y) from the top left."""
    width, height = figure.get_size_inches() * DPI
    figure.text(
        x / width,
        1 - y / height,
        text,
        size=size,
        color=colour,
        weight=weight,
        va="top",
        wrap=False,
    )


def _write_header(figure: Figure, title: str) -> None:
    from matplotlib.patches import Rectangle

    _write(figure, GAP + 4, 12, title, size=15, colour="white", weight="bold")
    width, height = figure.get_size_inches() * DPI
    entries = (
        ("agreement (outline)", AGREEMENT, 0.0),
        ("missed: truth only", MISSED, 0.5),
        ("false alarm: prediction only", FALSE_ALARM, 0.5),
    )
    left = GAP + 4.0
    for text, colour, fill in entries:
        box = Rectangle(
            (left / width, 1 - 71 / height),
            22 / width,
            15 / height,
            facecolor=(*unit(colour), fill),
            edgecolor=unit(colour),
            linewidth=1.8,
            transform=figure.transFigure,
        )
        figure.add_artist(box)
        _write(figure, left + 30, 55, text, size=11, colour="0.9")
        left += 30 + 9 * len(text) + 24
    note = "left: FLAIR, right: overlay · R = patient's right, anterior on top"
    _write(figure, left, 55, note, size=11, colour="0.65")


def _write_label(figure: Figure, case: Case, top: int, label: str) -> None:
    score = case.score
    lines = [
        (label, 12, "#E69F00", "bold"),
        (_wrapped(case.patient_id), 10.5, "white", "bold"),
        (f"Dice {_number(score.dice)}", 14, "white", "normal"),
        (f"IoU {_number(score.iou)}", 10.5, "0.8", "normal"),
        (f"precision {_number(score.precision)}", 10.5, "0.8", "normal"),
        (f"recall {_number(score.recall)}", 10.5, "0.8", "normal"),
        (_volume(case), 10.5, "0.8", "normal"),
    ]
    y = float(top + 4)
    for text, size, colour, weight in lines:
        if text:
            _write(figure, GAP + 4, y, text, size=size, colour=colour, weight=weight)
            y += (1 + text.count("\n")) * size * 2.0


def _wrapped(patient_id: str, width: int = 22) -> str:
    pieces = [patient_id[start : start + width] for start in range(0, len(patient_id), width)]
    return "\n".join(pieces[:3])


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "undefined"


def _volume(case: Case) -> str:
    if np.isfinite(case.score.truth_ml):
        return f"tumour {case.score.truth_ml:.1f} ml\npredicted {case.score.pred_ml:.1f} ml"
    return f"tumour {case.score.truth_px:,} px\npredicted {case.score.pred_px:,} px"


def _pixels(figure: Figure) -> UInt8:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=DPI, facecolor=[c / 255 for c in BACKGROUND])
    width, height = (round(side * DPI) for side in figure.get_size_inches())
    rgba = np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(height, width, 4)
    return np.ascontiguousarray(rgba[..., :3])

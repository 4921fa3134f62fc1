"""A contact sheet of overlays: one row a patient, slices chosen by rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np

from seglab.data.identity import TITLES
from seglab.evaluation.metrics import Case
from seglab.figures.slices import Window, brain_window, cut, draw_overlay, draw_slice, radiological
from seglab.figures.style import UInt8, legend, pixels, unit

PANEL_HEIGHT: Final = 360
PANEL_WIDTH: Final = 300
GAP: Final = 8
CAPTION: Final = 26
HEADER: Final = 92
LABEL: Final = 230
NOTE: Final = 760
DPI: Final = 100
BACKGROUND: Final = (18, 18, 20)
MINIMUM_DISTANCE: Final = 4
"""Slices between two that are shown, so that they do not show the same thing twice."""


def choose_slices(truth: UInt8, prediction: UInt8) -> dict[str, int]:
    """Choose up to three slices of (S, H, W) masks: largest tumour, most missed, most false.

    Each is at least :data:`MINIMUM_DISTANCE` slices from the others. A rule without a
    single pixel to show gives nothing; a case without any shows its middle slice.

    Returns:
        Positions by the rule that chose them.
    """
    tumour, predicted = truth != 0, prediction != 0
    areas = {
        "largest tumour": tumour,
        "most missed": tumour & ~predicted,
        "most false alarm": predicted & ~tumour,
    }
    shown: dict[str, int] = {}
    for rule, area in areas.items():
        counts = area.sum(axis=(1, 2))
        for other in shown.values():
            counts[max(0, other - MINIMUM_DISTANCE + 1) : other + MINIMUM_DISTANCE] = 0
        if counts.any():
            shown[rule] = int(counts.argmax())
    return shown or {"middle slice": len(truth) // 2}


def overlay_sheet(cases: Sequence[Case], title: str, label: str = "") -> UInt8:
    """Draw a row a case: the image beside its overlay, for each chosen slice.

    Args:
        cases: patients, in the order of the rows; any number from one.
        title: written on top.
        label: a word ("worst", "median", …) above each patient's id.

    Returns:
        (height, width, 3) RGB, about 2100 pixels wide.
    """
    chosen = [choose_slices(case.truth, case.prediction) for case in cases]
    columns = max(2, *map(len, chosen))
    width = LABEL + columns * (2 * PANEL_WIDTH + GAP) + GAP
    height = HEADER + len(cases) * (PANEL_HEIGHT + CAPTION + GAP)
    sheet = _Sheet(width, height)
    sheet.header(title, TITLES[cases[0].modality])
    for row, (case, slices) in enumerate(zip(cases, chosen, strict=True)):
        top = HEADER + row * (PANEL_HEIGHT + CAPTION + GAP)
        sheet.patient(case, top, label)
        window = brain_window(radiological(case.image, case.upright), PANEL_WIDTH / PANEL_HEIGHT)
        for column, (rule, position) in enumerate(slices.items()):
            left = LABEL + column * (2 * PANEL_WIDTH + GAP)
            pair = _draw_pair(case, position, window)
            sheet.canvas[top : top + PANEL_HEIGHT, left : left + 2 * PANEL_WIDTH] = pair
            below = (left, top + PANEL_HEIGHT + 4)
            sheet.write(*below, _caption(case, rule, position), size=9.5, color="0.75")
    sheet.figure.figimage(sheet.canvas, zorder=-1)
    return pixels(sheet.figure)


def _draw_pair(case: Case, position: int, window: Window) -> UInt8:
    image, truth, prediction = (
        cut(radiological(array[position], case.upright), window)
        for array in (case.image, case.truth, case.prediction)
    )
    scale = math.ceil(PANEL_HEIGHT / image.shape[0]) + 1
    pair = np.hstack([draw_slice(image, scale), draw_overlay(image, truth, prediction, scale)])
    size = (2 * PANEL_WIDTH, PANEL_HEIGHT)
    return np.asarray(cv2.resize(pair, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _caption(case: Case, rule: str, position: int) -> str:
    truth, prediction = case.truth[position] != 0, case.prediction[position] != 0
    total = int(truth.sum() + prediction.sum())
    dice = f"Dice {2 * int((truth & prediction).sum()) / total:.2f}" if total else "no tumour"
    return f"slice {case.slice_indices[position]} · {rule} · {dice}"


class _Sheet:
    """A canvas of pixels with text over it; places are pixels from the top left."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.figure import Figure

        self.canvas = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
        # Half a pixel more: the size in whole pixels is rounded down.
        size = ((width + 0.5) / DPI, (height + 0.5) / DPI)
        self.figure = Figure(figsize=size, dpi=DPI, facecolor=unit(BACKGROUND))

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write ``text`` with its top left corner at (x, y)."""
        height, width, _ = self.canvas.shape
        self.figure.text(x / width, 1 - y / height, text, va="top", parse_math=False, **style)

    def header(self, title: str, modality: str) -> None:
        """Write the title and what the colours mean."""
        self.write(GAP + 4, 12, title, size=15, color="white", weight="bold")
        height, width, _ = self.canvas.shape
        text: dict[str, Any] = {"labelcolor": "0.9", "fontsize": 11, "borderaxespad": 0.2}
        where = (GAP / width, 1 - 44 / height)
        entries = self.figure.legend(handles=legend(), ncols=3, frameon=False, **text)
        entries.set_loc("upper left")
        entries.set_bbox_to_anchor(where)
        note = f"left: {modality}, right: overlay · R = patient's right, anterior on top"
        self.write(NOTE, 55, note, size=11, color="0.65")

    def patient(self, case: Case, top: int, label: str) -> None:
        """Write who a row shows, and the figures of the whole patient."""
        score, name = case.score, case.patient_id
        lines = [
            (label, 12, "#E69F00", "bold"),
            ("\n".join(name[at : at + 22] for at in range(0, min(len(name), 66), 22)), 10.5,
             "white", "bold"),
            (f"Dice {_number(score.dice)}", 14, "white", "normal"),
            (f"IoU {_number(score.iou)}", 10.5, "0.8", "normal"),
            (f"precision {_number(score.precision)}", 10.5, "0.8", "normal"),
            (f"recall {_number(score.recall)}", 10.5, "0.8", "normal"),
            (_volume(case), 10.5, "0.8", "normal"),
        ]  # fmt: skip
        y = float(top + 4)
        for text, size, colour, weight in lines:
            if text:
                self.write(GAP + 4, y, text, size=size, color=colour, weight=weight)
                y += (1 + text.count("\n")) * size * 2.0


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "undefined"


def _volume(case: Case) -> str:
    if np.isfinite(case.score.truth_ml):
        return f"tumour {case.score.truth_ml:.1f} ml\npredicted {case.score.pred_ml:.1f} ml"
    return f"tumour {case.score.truth_px:,} px\npredicted {case.score.pred_px:,} px"

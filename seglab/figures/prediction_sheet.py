"""A sheet of slices with the predicted outline, for a scan nobody has outlined."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.figures.panels import draw_flair, radiological
from seglab.figures.style import ORANGE
from seglab.figures.window import brain_window, cut

UInt8 = NDArray[np.uint8]

COLUMNS, PANELS = 4, 8
PANEL = 300
"""Longest side of a panel in screen pixels."""
BAR = 26
"""Height of the line of text above everything and under each panel."""
TEXT = (225, 225, 225)


def prediction_sheet(
    image: UInt8, mask: NDArray[np.bool_], slice_indices: NDArray[np.int32], *,
    upright: bool, title: str,
) -> UInt8:  # fmt: skip
    """Draw up to eight slices spread over the prediction, or over the brain where there is none.

    Args:
        image: (S, H, W) levels, 0 is background.
        mask: (S, H, W) the prediction.
        slice_indices: (S,) as each slice is called.
        upright: False where slices lie on their side.
        title: one line.

    Returns:
        RGB uint8.
    """
    shown = _spread(mask if mask.any() else image > 0)
    window = brain_window(radiological(image, upright))
    panels = []
    for index in shown:
        grey = np.ascontiguousarray(cut(radiological(image[index], upright), window))
        predicted = np.ascontiguousarray(cut(radiological(mask[index], upright), window))
        pixels = int(mask[index].sum())
        caption = f"slice {slice_indices[index]}" + (f", {pixels} px" if pixels else "")
        panels.append(_panel(grey, predicted, caption))
    return _with_title(_grid(panels), title)


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


def _panel(image: UInt8, mask: NDArray[np.bool_], caption: str) -> UInt8:
    scale = max(1, round(PANEL / max(image.shape)))
    panel = draw_flair(image, upright=True, scale=scale)
    large = np.repeat(np.repeat(mask.astype(np.uint8), scale, axis=0), scale, axis=1)
    outlines, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, outlines, -1, ORANGE, 2)
    return np.vstack([panel, _line(panel.shape[1], caption)])


def _grid(panels: list[UInt8]) -> UInt8:
    columns = min(COLUMNS, len(panels))
    blank = np.zeros_like(panels[0])
    padded = panels + [blank] * (math.ceil(len(panels) / columns) * columns - len(panels))
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    return np.vstack(rows)


def _with_title(sheet: UInt8, title: str) -> UInt8:
    return np.vstack([_line(sheet.shape[1], title), sheet])


def _line(width: int, text: str) -> UInt8:
    line = np.zeros((BAR, width, 3), np.uint8)
    # OpenCV's own font has no signs beyond ASCII.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(line, plain, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, TEXT, 1, cv2.LINE_AA)
    return line

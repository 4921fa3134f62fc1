"""Slices as pictures: oriented, cut to the brain, with truth and prediction drawn on them.

Radiological orientation: anterior at the top, the patient's right (R) at the viewer's
left. Colours and forms say the same thing twice, for readers who see colours otherwise:
agreement is a green outline over the untouched image, a missed part a sky-blue area, a false
alarm a vermillion one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.core.arrays import bounding_box
from seglab.evaluation.metrics import Case
from seglab.figures.style import AGREEMENT, FALSE_ALARM, FILL_OPACITY, MISSED, RGB, UInt8

Window = tuple[slice, slice]  # rows and columns; may reach outside the slice
MARGIN: Final = 4  # pixels kept free around the brain
MARK_COLOUR: Final = (215, 215, 215)
LETTER_SHARE: Final = 0.06
"""Of the picture's height; the letters at its sides stay readable in a small picture."""


def radiological(slices: NDArray[Any], upright: bool) -> NDArray[Any]:
    """Turn (…, H, W) from the source's storage order into the order of display."""
    return slices if upright else np.swapaxes(slices, -1, -2)


def brain_window(image: NDArray[Any], aspect: float | None = None) -> Window:
    """Find the window around all of (S, H, W) that is not background (0), with a margin.

    It is widened to ``aspect``, width over height; without a brain it is the whole slice.
    """
    whole = tuple(slice(0, side) for side in image.shape[1:])
    rows, columns = bounding_box((image != 0).any(axis=0)) or whole
    height, width = (side.stop - side.start + 2 * MARGIN for side in (rows, columns))
    if aspect is not None:
        height = max(height, int(np.ceil(width / aspect)))
        width = round(height * aspect)
    top = (rows.start + rows.stop - height) // 2
    left = (columns.start + columns.stop - width) // 2
    return slice(top, top + height), slice(left, left + width)


def cut(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """Take a window out of (…, H, W), with zeros where it reaches outside."""
    reach = [
        max(0, -side.start, side.stop - length)
        for side, length in zip(window, array.shape[-2:], strict=True)
    ]
    padded = np.pad(array, [(0, 0)] * (array.ndim - 2) + [(by, by) for by in reach])
    rows, columns = (
        slice(side.start + by, side.stop + by) for side, by in zip(window, reach, strict=True)
    )
    return np.ascontiguousarray(padded[..., rows, columns])


def views(
    case: Case, positions: Iterable[int], aspect: float
) -> Iterator[tuple[UInt8, UInt8, UInt8]]:
    """Image, truth and prediction (h, w) of slices, radiological and cut to the case's brain."""
    window = brain_window(radiological(case.image, case.upright), aspect)
    for position in positions:
        image, truth, prediction = (
            cut(radiological(array[position], case.upright), window)
            for array in (case.image, case.truth, case.prediction)
        )
        yield image, truth, prediction


def draw_slice(image: UInt8, scale: int, *, sides: str = "RL") -> UInt8:
    """Draw a radiological slice (H, W), with a letter at each of the patient's sides.

    Returns (H·scale, W·scale, 3) RGB.
    """
    height, width = image.shape
    size = (width * scale, height * scale)
    grey = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)
    canvas = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    tall = round(LETTER_SHARE * len(canvas))
    font, stroke = cv2.FONT_HERSHEY_SIMPLEX, max(1, tall // 9)
    letters = cv2.getFontScaleFromHeight(font, tall, stroke)
    (width, height), _ = cv2.getTextSize("R", font, letters, stroke)
    for letter, left in zip(sides, (2 * scale, canvas.shape[1] - width - 2 * scale), strict=False):
        place = (left, height + 2 * scale)
        cv2.putText(canvas, letter, place, font, letters, MARK_COLOUR, stroke, cv2.LINE_AA)
    return canvas


def draw_overlay(image: UInt8, truth: UInt8, prediction: UInt8, scale: int) -> UInt8:
    """Draw where prediction and truth, both (H, W) in {0, 1}, differ and agree on the slice.

    All are radiological; returns RGB of the size that :func:`draw_slice` gives.
    """
    canvas = draw_slice(image, scale)
    tumour, predicted = truth != 0, prediction != 0
    wrong = ((tumour & ~predicted, MISSED), (predicted & ~tumour, FALSE_ALARM))
    for mask, colour in wrong:
        inside = _enlarge(mask, scale) != 0
        tint = np.array(colour, dtype=np.float32) * FILL_OPACITY
        canvas[inside] = (canvas[inside] * (1 - FILL_OPACITY) + tint).astype(np.uint8)
    for mask, colour in (*wrong, (tumour & predicted, AGREEMENT)):
        outline(canvas, mask, colour, scale, (scale + 2) // 2)
    return canvas


def outline(
    canvas: UInt8, mask: NDArray[np.bool_], colour: RGB, scale: int, thickness: int
) -> None:
    """Draw the outline of a mask (H, W) on a canvas of ``scale`` times its size."""
    large = _enlarge(mask, scale)
    outlines, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, thickness)


def _enlarge(mask: NDArray[np.bool_], scale: int) -> UInt8:
    return mask.astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)

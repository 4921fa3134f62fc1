"""Truth and prediction drawn on FLAIR, as a radiologist holds a slice.

Radiological orientation: anterior at the top, the patient's right (R) at the viewer's
left. Colours and forms say the same thing twice, for readers who see colours otherwise:
agreement is a green outline over untouched FLAIR, a missed part a sky-blue area, a false
alarm a vermillion one.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.figures.style import AGREEMENT, FALSE_ALARM, MISSED, RGB

UInt8 = NDArray[np.uint8]

FILL_OPACITY: Final = 0.5
MARK_COLOUR: Final = (215, 215, 215)


def radiological(slices: NDArray[Any], upright: bool) -> NDArray[Any]:
    """Turn (…, H, W) from the source's storage order into the order of display."""
    return slices if upright else np.swapaxes(slices, -1, -2)


def enlarge(image: UInt8, scale: int) -> UInt8:
    """Enlarge a grey slice (H, W) ``scale`` times, smoothly."""
    height, width = image.shape
    size = (width * scale, height * scale)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def draw_flair(image: UInt8, *, upright: bool, scale: int) -> UInt8:
    """Draw a slice alone, oriented and marked like :func:`draw_overlay`.

    Args:
        image: (H, W) uint8 as stored in the source.
        upright: False where the source stores slices on their side.
        scale: screen pixels per image pixel.

    Returns:
        (H·scale, W·scale, 3) RGB uint8, or (W·scale, H·scale, 3) where not upright.
    """
    grey = enlarge(np.ascontiguousarray(radiological(image, upright)), scale)
    canvas = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    return _mark_sides(canvas, scale)


def draw_overlay(
    image: UInt8, truth: UInt8, prediction: UInt8, *, upright: bool, scale: int
) -> UInt8:
    """Draw where prediction and truth agree and differ, on the slice.

    Args:
        image: (H, W) uint8 FLAIR as stored in the source.
        truth: (H, W) in {0, 1}.
        prediction: (H, W) in {0, 1}.
        upright: False where the source stores slices on their side.
        scale: screen pixels per image pixel.

    Returns:
        RGB uint8 of the size :func:`draw_flair` gives.
    """
    canvas = draw_flair(image, upright=upright, scale=scale)
    tumour = radiological(truth, upright) != 0
    predicted = radiological(prediction, upright) != 0
    missed = _enlarge_mask(tumour & ~predicted, scale)
    false_alarm = _enlarge_mask(predicted & ~tumour, scale)
    _fill(canvas, missed, MISSED)
    _fill(canvas, false_alarm, FALSE_ALARM)
    _outline(canvas, missed, MISSED, scale)
    _outline(canvas, false_alarm, FALSE_ALARM, scale)
    _outline(canvas, _enlarge_mask(tumour & predicted, scale), AGREEMENT, scale)
    return canvas


def _enlarge_mask(mask: NDArray[Any], scale: int) -> UInt8:
    return np.repeat(np.repeat(mask.astype(np.uint8), scale, axis=0), scale, axis=1)


def _fill(canvas: UInt8, mask: UInt8, colour: RGB) -> None:
    tint = np.array(colour, dtype=np.float32) * FILL_OPACITY
    inside = mask != 0
    canvas[inside] = (canvas[inside] * (1 - FILL_OPACITY) + tint).astype(np.uint8)


def _outline(canvas: UInt8, mask: UInt8, colour: RGB, scale: int) -> None:
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, thickness=(scale + 2) // 2)


def _mark_sides(canvas: UInt8, scale: int) -> UInt8:
    """Write R at the viewer's left and L at the right, small and out of the brain's way."""
    size = 0.22 * scale
    (width, height), _ = cv2.getTextSize("R", cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    top = height + 2 * scale
    for letter, left in (("R", 2 * scale), ("L", canvas.shape[1] - width - 2 * scale)):
        origin = (left, top)
        cv2.putText(
            canvas, letter, origin, cv2.FONT_HERSHEY_SIMPLEX, size, MARK_COLOUR, 1, cv2.LINE_AA
        )
    return canvas

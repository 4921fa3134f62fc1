"""The part of a patient's slices that is worth showing."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Window = tuple[slice, slice]
"""Rows and columns; may reach outside the slice."""

MARGIN: Final = 4
"""Pixels kept free around the brain."""


def brain_window(image: NDArray[np.uint8], aspect: float | None = None) -> Window:
    """Find the window around all that is not background, in any slice.

    Args:
        image: (S, H, W), 0 is background.
        aspect: width over height of the window, which is then widened to it.

    Returns:
        The window with a margin; the whole slice where there is no brain.
    """
    rows = np.flatnonzero(image.any(axis=(0, 2)))
    columns = np.flatnonzero(image.any(axis=(0, 1)))
    if not rows.size:
        rows, columns = np.arange(image.shape[1]), np.arange(image.shape[2])
    height, width = (int(np.ptp(found)) + 1 + 2 * MARGIN for found in (rows, columns))
    if aspect is not None:
        height = max(height, int(np.ceil(width / aspect)))
        width = round(height * aspect)
    top = int(rows[0] + rows[-1] + 1 - height) // 2
    left = int(columns[0] + columns[-1] + 1 - width) // 2
    return slice(top, top + height), slice(left, left + width)


def cut(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """Take a window out of (…, H, W), with zeros where it reaches outside."""
    rows, columns = window
    size = (rows.stop - rows.start, columns.stop - columns.start)
    out = np.zeros((*array.shape[:-2], *size), dtype=array.dtype)
    height, width = array.shape[-2:]
    top, left = max(0, rows.start), max(0, columns.start)
    part = array[..., top : min(height, rows.stop), left : min(width, columns.stop)]
    y, x = top - rows.start, left - columns.start
    out[..., y : y + part.shape[-2], x : x + part.shape[-1]] = part
    return out

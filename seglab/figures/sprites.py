"""Many slices in one picture, small enough to travel inside a page.

The image goes into a lossy WebP. Truth, prediction and probability go into a lossless one:
each grey level holds the truth in bit 7, the prediction in bit 6 and the probability in
16 steps in bits 2 to 5, and an ensemble's disagreement in bits 0 and 1: an SD of the probability
of 0.1, 0.2 and 0.3 or more.
"""

from __future__ import annotations

import base64
import math
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.metrics import Case
from seglab.figures.slices import Window, brain_window, cut, draw_overlay, radiological, views
from seglab.figures.style import UInt8

LONGEST_SIDE: Final = 192  # pixels of a slice in a sprite; larger ones are reduced
THUMBNAIL_HEIGHT: Final = 168
THUMBNAIL_ASPECT: Final = 0.84
CONTEXT: Final = 3  # slices shown beyond the first and last with anything marked
LOSSLESS: Final = 101
QUALITY: Final = 55
FEWEST_SLICES: Final = 8
DISAGREEMENT_STEP: Final = 51  # an SD of 0.1, of 255 for 0.5


def encode(case: Case, most_slices: int, budget: int) -> dict[str, Any]:
    """Encode up to ``most_slices`` marked slices of ``case`` in ``budget`` bytes of page.

    Where they do not fit, slices are thinned out, down to a few: those cost what they cost.
    Returns which slices they are, the size of one in pixels, and data URIs of the image and of the
    labels, in which the slices stand in so many columns, row after row.
    """
    window = brain_window(radiological(case.image, case.upright))
    count = most_slices
    while True:
        positions = choose_positions(case, count)
        sprites = _encode(case, positions, window)
        size = len(sprites["flair"]) + len(sprites["labels"])
        if size <= budget or count <= FEWEST_SLICES:
            return sprites
        fitting = int(len(positions) * budget / size * 0.95)
        count = max(FEWEST_SLICES, min(fitting, len(positions) - 1))


def choose_positions(case: Case, most: int) -> tuple[int, ...]:
    """Choose slices from the first with a mark to the last, with some context.

    Where there are more than ``most`` they are thinned out evenly, but the slices with
    most tumour, most missed and most false alarm stay.
    """
    truth, prediction = case.truth != 0, case.prediction != 0
    marked = np.flatnonzero((truth | prediction).any(axis=(1, 2)))
    if not marked.size:
        marked = np.array([len(case.image) // 2])
    first = max(0, int(marked[0]) - CONTEXT)
    last = min(len(case.image) - 1, int(marked[-1]) + CONTEXT)
    if last - first + 1 <= most:
        return tuple(range(first, last + 1))
    telling = {
        int(area.sum(axis=(1, 2)).argmax())
        for area in (truth, truth & ~prediction, prediction & ~truth)
        if area.any()
    }
    spread = np.linspace(first, last, max(2, most - len(telling))).round().astype(int)
    return tuple(sorted(telling | set(spread.tolist())))


def thumbnail(case: Case) -> str:
    """Draw the overlay of the slice with most wrong pixels (largest tumour if none) as a URI."""
    (seen,) = views(case, [worst_position(case)], THUMBNAIL_ASPECT)
    scale = math.ceil(THUMBNAIL_HEIGHT / seen[0].shape[0]) + 1
    drawn = draw_overlay(*seen, scale)
    size = (round(THUMBNAIL_HEIGHT * THUMBNAIL_ASPECT), THUMBNAIL_HEIGHT)
    small = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)
    return _uri(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), 70)


def worst_position(case: Case) -> int:
    """Find the slice with most wrong pixels, or with most tumour if none is wrong."""
    wrong = ((case.truth != 0) ^ (case.prediction != 0)).sum(axis=(1, 2))
    return int(wrong.argmax() if wrong.any() else case.truth.sum(axis=(1, 2)).argmax())


def _encode(case: Case, positions: tuple[int, ...], window: Window) -> dict[str, Any]:
    chosen = list(positions)
    truth = (case.truth[chosen] != 0).astype(np.uint8) << 7
    prediction = (case.prediction[chosen] != 0).astype(np.uint8) << 6
    packed = truth | prediction | ((case.probability[chosen] >> 4) << 2)
    if case.disagreement is not None:
        packed |= np.minimum(case.disagreement[chosen] // DISAGREEMENT_STEP, 3)
    flair = _shown(case.image[chosen], case.upright, window, cv2.INTER_AREA)
    labels = _shown(packed, case.upright, window, cv2.INTER_NEAREST)
    count, height, width = flair.shape
    columns = max(1, round(math.sqrt(count * height / width)))
    return {
        "positions": positions,
        "width": width,
        "height": height,
        "columns": columns,
        "flair": _uri(_tile(flair, columns), QUALITY),
        "labels": _uri(_tile(labels, columns), LOSSLESS),
    }


def _shown(slices: UInt8, upright: bool, window: Window, interpolation: int) -> UInt8:
    seen = cut(radiological(slices, upright), window)
    height, width = seen.shape[1:]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([cv2.resize(s, size, interpolation=interpolation) for s in seen])


def _tile(slices: UInt8, columns: int) -> UInt8:
    blank = np.zeros((-len(slices) % columns, *slices.shape[1:]), dtype=np.uint8)
    rows = np.concatenate([slices, blank]).reshape(-1, columns, *slices.shape[1:])
    return np.vstack([np.hstack(row) for row in rows])


def _uri(image: NDArray[Any], quality: int) -> str:
    done, encoded = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise OSError("OpenCV cannot write WebP")
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")

"""Is the skull on this image, or was it taken off? Measured from the outline inwards.

Through a whole head the way inwards is bright scalp, dark bone, brain; through a brain that was
taken out it is brain from the first pixel. The figure is the largest fall of the median
brightness on that way, in units of the brain's own brightness, and so free of any scale.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.data.identity import Image, median, spread_indices, tissue

DEPTHS = (0.015, 0.03, 0.045, 0.06, 0.075, 0.09, 0.12)
"""Edges of the layers, in √area of the head; the outermost is half air."""
MAX_SLICES = 9
"""Slices of a volume that are measured."""
SKULL = 0.2
"""``skull_fall`` of a head with its skull is above this, of a brain without below. Volumes, raw
or as a cache holds them: 18 of BraTS FLAIR at most 0.13; 14 of the LGG set at least 0.43 on T1,
0.30 on FLAIR and 0.28 on T1 after contrast. Single BraTS slices of T1 and T1ce: at most 0.2."""


def skull_fall(image: NDArray[np.generic]) -> float:
    """Measure the median fall over slices of (S, H, W); NaN where no slice shows enough head."""
    return median(
        [
            _fall(np.ascontiguousarray(image[index], np.float32))
            for index in spread_indices(len(image), MAX_SLICES)
        ]
    )


def _fall(image: Image) -> float:
    head, inside = tissue(image)
    if not inside.any():
        return float("nan")
    framed = np.pad(head.astype(np.uint8), 1)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1] / np.sqrt(head.sum())
    layers = [
        float(np.median(image[layer]))
        for low, high in itertools.pairwise(DEPTHS)
        if (layer := (depth > low) & (depth <= high)).any()
    ]
    brightness = float(np.median(image[inside]) - np.percentile(image, 1))
    brightest = np.maximum.accumulate(layers)
    return float((brightest - layers).max() / max(brightness, 1e-6))

"""What several packages ask of an array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Smallest box that holds every True element: a slice an axis; None where there is none."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        # Cut to what is known already: later axes then look at less.
        hits = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not hits.size:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)

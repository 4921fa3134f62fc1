"""Small, medium and large tumours: where an arm wins and where it loses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SIZES = ("small", "medium", "large")


def stratify(volumes: ArrayLike) -> list[str | None]:
    """Name each patient's tertile of tumour volume.

    Args:
        volumes: (n,) in any unit; 0 and NaN have no tumour and belong to no stratum.

    Returns:
        "small", "medium", "large" or None for each. Equal volumes share a stratum.
    """
    sizes = np.asarray(volumes, dtype=np.float64)
    tumour = sizes > 0
    if not tumour.any():
        return [None] * sizes.size
    edges = np.quantile(sizes[tumour], [1 / 3, 2 / 3])
    ranks = np.searchsorted(edges, sizes, side="left")
    return [SIZES[r] if has else None for r, has in zip(ranks, tumour, strict=True)]

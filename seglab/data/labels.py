"""One reading of labels: whole numbers, by a convention that is stated, to one canonical map.

Canonical labels: 0 background, 1 non-enhancing core (necrosis), 2 oedema, 3 enhancing tumour,
4 tumour of unknown part (a merged mask).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import unknown_name

Labels = NDArray[np.uint8]

NON_ENHANCING, OEDEMA, ENHANCING, UNKNOWN_PART = 1, 2, 3, 4
TARGETS: dict[str, frozenset[int]] = {
    "whole": frozenset({NON_ENHANCING, OEDEMA, ENHANCING, UNKNOWN_PART}),
    "core": frozenset({NON_ENHANCING, ENHANCING}),
    "enhancing": frozenset({ENHANCING}),
}
CONVENTIONS: dict[str, Mapping[int, int]] = {
    "brats2017": {1: NON_ENHANCING, 2: OEDEMA, 4: ENHANCING},
    # Until 2015, and in the older patients of the sets of 2017 to 2020: 3 has no contrast.
    "brats2012": {1: NON_ENHANCING, 2: OEDEMA, 3: NON_ENHANCING, 4: ENHANCING},
    "brats2023": {1: NON_ENHANCING, 2: OEDEMA, 3: ENHANCING},
    # After treatment: 4 is the cavity that surgery left, which is no tumour.
    "brats2024": {1: NON_ENHANCING, 2: OEDEMA, 3: ENHANCING, 4: 0},
    "binary": {1: UNKNOWN_PART, 255: UNKNOWN_PART},
}
"""Name (as ``data.labels`` takes it) → label in the file → canonical label; 0 is background."""


def target_mask(labels: Labels, target: str) -> Labels:
    """Mark the target of a canonical label map: (S, H, W) in {0, 1}.

    Raises:
        UserError: unknown target.
    """
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    marked = np.zeros(256, np.uint8)
    marked[list(TARGETS[target])] = 1
    return marked[labels]

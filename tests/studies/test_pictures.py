"""Which patients the sheets of overlays show."""

from __future__ import annotations

import numpy as np
import pytest

from seglab.evaluation.case import best_median_worst
from seglab.evaluation.metrics import score_patient
from seglab.studies.pictures import fair_share


@pytest.mark.parametrize("count", range(1, 13))
def test_every_sheet_has_somebody_to_show(count: int) -> None:
    scores = []
    for found in range(count):
        truth = np.zeros((1, 4, 20), dtype=bool)
        truth[0, 0] = True
        predicted = truth.copy()
        predicted[0, 0, found:] = False
        spacing = (1.0, 1.0, 1.0)
        scores.append(score_patient(f"P{found}", predicted, truth, spacing, True, surface=False))
    chosen = best_median_worst(scores, fair_share(count))
    shown = [name for names in chosen.values() for name in names]
    assert len(shown) == len(set(shown))
    assert sum(bool(names) for names in chosen.values()) == min(count, 3)

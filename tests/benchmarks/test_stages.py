"""Every stage runs and gives figures that can be figures; how fast is not asked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.material import Material
from benchmarks.run import run_stages
from benchmarks.stage import STAGES
from benchmarks.stages.evaluation import check_equal

SLOW = ("epoch", "epoch-plain", "first-step", "memory", "workers")
CPU = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, stage in STAGES.items()
    if stage.device == "cpu"
]


@pytest.mark.parametrize("name", CPU)
def test_figures_are_finite_and_positive(name: str, material: Material) -> None:
    (row,) = run_stages([STAGES[name]], material)
    assert row.measured is not None, row.skipped
    figures = (row.measured.ours, row.measured.reference, row.measured.ratio)
    assert all(figure is None or 0 < figure < math.inf for figure in figures)
    assert row.stage.goal is None or row.met is not None
    assert sum(row.measured.split.values()) >= 0


def test_unequal_scores_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = np.zeros((4, 8, 8), bool)
    truth[1:3, 2:6, 2:6] = True
    prediction = np.roll(truth, 1, axis=1)
    check_equal(prediction, truth)
    scores = "benchmarks.stages.evaluation.monai_scores"
    monkeypatch.setattr(scores, lambda *_: {"dice": 0.5})
    with pytest.raises(ArithmeticError, match="dice"):
        check_equal(prediction, truth)

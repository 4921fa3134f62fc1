"""Every stage runs and gives figures that can be figures; how fast is not asked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seglab.bench.material import Material
from seglab.bench.run import run_stages
from seglab.bench.stage import STAGES
from seglab.bench.stages.elastic import our_fields, statistics, their_fields
from seglab.bench.stages.evaluation import check_equal

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


def test_displacements_are_those_of_albumentations() -> None:
    ours, theirs = (statistics(fields(120, 300)) for fields in (our_fields, their_fields))
    assert abs(ours["mean"] - theirs["mean"]) < 0.05 * theirs["SD"]
    assert ours["SD"] == pytest.approx(theirs["SD"], rel=0.05)
    assert ours["correlation length"] == pytest.approx(theirs["correlation length"], rel=0.05)


def test_correlation_length_of_a_cosine() -> None:
    # The correlation of cos(kx + phase) over all phases is cos(k · lag): 1/e at arccos(1/e) / k.
    x, phases = np.arange(200), np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = np.cos(0.05 * x + phases[:, None]).astype(np.float32)
    assert statistics(waves)["correlation length"] == pytest.approx(
        np.arccos(1 / np.e) / 0.05, 0.01
    )


def test_unequal_scores_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = np.zeros((4, 8, 8), bool)
    truth[1:3, 2:6, 2:6] = True
    prediction = np.roll(truth, 1, axis=1)
    check_equal(prediction, truth)
    scores = "seglab.bench.stages.evaluation.monai_scores"
    monkeypatch.setattr(scores, lambda *_: {"dice": 0.5})
    with pytest.raises(ArithmeticError, match="dice"):
        check_equal(prediction, truth)

"""Every stage runs and gives figures that can be figures; how fast is not asked."""

from __future__ import annotations

import math

import pytest

from seglab.bench.material import Material
from seglab.bench.run import run_stages
from seglab.bench.stage import STAGES

CPU = [name for name, stage in STAGES.items() if stage.device == "cpu"]


@pytest.mark.parametrize("name", CPU)
def test_figures_are_finite_and_positive(name: str, material: Material) -> None:
    (row,) = run_stages([STAGES[name]], material)
    assert row.measured is not None, row.skipped
    figures = (row.measured.ours, row.measured.reference, row.measured.ratio)
    assert all(figure is None or 0 < figure < math.inf for figure in figures)
    assert row.stage.goal is None or row.met is not None

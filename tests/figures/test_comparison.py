"""Figures of a comparison: the front, the swarm, the mean curve."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seglab.figures.comparison import mean_curve, pareto_front, swarm_offsets

points = st.lists(
    st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=9
)


@given(points)
def test_the_front_is_what_no_other_point_beats(found: list[tuple[float, float]]) -> None:
    undominated = {
        p for p in found if not any((q[0] <= p[0] and q[1] >= p[1] and q != p) for q in found)
    }
    assert set(pareto_front(found)) == undominated


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_swarm_points_stay_in_their_row(values: list[float]) -> None:
    offsets = swarm_offsets(np.array(values))
    assert np.abs(offsets).max() <= 0.36 + 1e-9
    assert len(set(zip(values, offsets.tolist(), strict=True))) == len(values)


def test_mean_curves_cover_the_epochs_all_runs_have() -> None:
    assert mean_curve([[(1, 0.0), (2, 1.0)], [(1, 1.0)]]).to_dict() == {1: 0.5}

"""The tries of a nuisance parameter: alike for all, spread over the space, inside it."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from seglab.core.search import Range
from seglab.core.study import Tune
from seglab.studies.experiment import Outcome, Plan
from seglab.studies.tuning import at_share, best_values, draw_values
from seglab.tracking.tags import VALUES

shares = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 30))
def test_the_first_is_the_arm_itself_and_the_rest_fill_every_stratum(trials: int) -> None:
    space = {"a": Range(low=0, high=1), "b": Range(low=0.01, high=100, log=True)}
    points = draw_values(Tune(space=space, trials=trials))
    assert points[0] == {}
    assert len(points) == trials
    drawn = trials - 1
    strata = [int(float(point["a"]) * drawn) for point in points[1:]]  # type: ignore[arg-type]
    assert sorted(strata) == list(range(drawn))
    logs = [(math.log10(float(point["b"])) + 2) / 4 * drawn for point in points[1:]]  # type: ignore[arg-type]
    assert sorted(int(value) for value in logs) == list(range(drawn))
    assert points == draw_values(Tune(space=space, trials=trials))


@given(shares)
def test_values_lie_inside_their_range(share: float) -> None:
    assert at_share(Range(choices=["x", "y"]), share) == ("x" if share < 0.5 else "y")
    assert 2 <= float(at_share(Range(low=2, high=8), share)) <= 8  # type: ignore[arg-type]
    assert at_share(Range(low=2, high=8, step=3), share) in (2, 5, 8)
    for log in (False, True):
        whole = at_share(Range(low=1, high=4, integer=True, log=log), share)
        assert isinstance(whole, int)
        assert 1 <= whole <= 4


def test_both_ends_of_whole_numbers_are_reached() -> None:
    whole = Range(low=1, high=64, integer=True, log=True)
    assert [at_share(whole, share) for share in (0.0, 0.999999)] == [1, 64]


def test_the_best_finished_try_is_chosen_and_none_leaves_the_arm_as_it_is() -> None:
    tags = [{VALUES: json.dumps({"k": i} if i else {})} for i in range(4)]
    trials = [Plan(None, "a", tags=one) for one in tags]  # type: ignore[arg-type]

    def outcome(dice: float, status: str = "FINISHED") -> Outcome:
        return Outcome("", "a", 0, status, {"val/dice": dice})

    found = [outcome(0.5), outcome(math.nan), outcome(0.7), outcome(0.9, "FAILED")]
    assert best_values(trials, found) == {"k": 2}
    assert best_values(trials, [outcome(0.9, "FAILED")] * 4) == {}

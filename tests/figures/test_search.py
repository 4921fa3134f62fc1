"""Pictures of a search: the figures they are drawn from, and a page that stands alone."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglab.figures import search as draw
from seglab.figures.search_page import search_page
from seglab.figures.trials import Importance, Scale, TrialRow, pareto_front, rank_curve


def row(number: int, *values: float, state: str = "complete", **given: object) -> TrialRow:
    curve = tuple((epoch, values[0] * epoch / 5) for epoch in range(1, 6)) if values else ()
    params = {"optim.lr": 1e-3 * (number + 1), "loss.name": "dice" if number % 2 else "bce"}
    plain = TrialRow(number, state, values, params, curve, 30.0, f"run{number}", number == 0)
    return TrialRow(**{**vars(plain), **given})


ROWS = [row(0, 0.7), row(1, 0.8), row(2, 0.3, state="pruned"), row(3, state="failed")]
FOUND = [
    Importance("fANOVA", {"optim.lr": 0.9, "loss.name": 0.1}),
    Importance("PED-ANOVA", {}, "few"),
]
points = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=12)


@given(points)
def test_the_front_is_what_no_other_trial_beats(found: list[tuple[float, float]]) -> None:
    rows = [row(i, dice, cost) for i, (dice, cost) in enumerate(found)]
    front = {r.values for r in pareto_front(rows)}
    for dice, cost in found:
        beaten = any((d >= dice and c <= cost) and (d > dice or c < cost) for d, c in found)
        assert ((dice, cost) in front) == (not beaten)


@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=9, unique=True))
def test_a_scale_of_numbers_keeps_their_order_and_fills_its_length(values: list[float]) -> None:
    scale = Scale.of(values)
    places = [scale.place(value) for value in sorted(values)]
    assert all(low <= high for low, high in pairwise(places))
    assert (places[0], places[-1]) == pytest.approx((0, 1))


def test_what_was_drawn_on_a_log_scale_is_shown_on_one() -> None:
    values = [0.001, 0.002, 0.004]
    assert Scale.of(values, log=True).place(0.002) == pytest.approx(0.5)
    assert Scale.of(values).place(0.002) == pytest.approx(1 / 3)
    page = search_page("any", ROWS, FOUND, "none", {"optim.lr"})
    assert '"log": ["optim.lr"]' in page


def test_a_scale_of_names_gives_each_its_own_place() -> None:
    scale = Scale.of(["dice", "bce", "dice", None, True])
    places = [scale.place(value) for value in ("dice", "bce", None, True)]
    assert len(set(places)) == 4
    assert sorted(label for _, label in scale.ticks()) == ["None", "True", "bce", "dice"]


def test_ranks_count_the_trials_alive_at_each_epoch() -> None:
    late = row(4, 0.9, curve=((1, 0.1), (2, 0.9)))
    early = row(5, 0.5, state="pruned", curve=((1, 0.5),))
    assert rank_curve(late, [late, early]) == [(1, 2), (2, 1)]
    assert rank_curve(early, [late, early]) == [(1, 1)]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [row(0, state="failed")]])
def test_every_picture_is_drawn_of_any_search(rows: list[TrialRow], tmp_path: Path) -> None:
    figures = [draw.history(rows), draw.parallel(rows), draw.slices(rows), draw.curves(rows)]
    figures += [draw.time_spent(rows), draw.importances(FOUND), draw.pareto(rows, "seconds")]
    for figure in figures:
        figure.savefig(tmp_path / "x.png")


def test_the_page_needs_no_network_and_takes_any_name() -> None:
    name = "</script><b>bold"
    page = search_page(name, ROWS, FOUND, "none")
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(""", page)
    assert page.count("</script>") == 1
    text = re.search(r"const data = (.*);\n", page)
    assert text is not None
    data = json.loads(text[1])
    assert data["name"] == name
    assert [trial["number"] for trial in data["trials"]] == [0, 1, 2, 3]

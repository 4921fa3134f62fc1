"""The interactive page of a search in a real browser: its axes tell the truth, its trials names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seglab.figures.search_page import search_page
from seglab.figures.trials import Importance, TrialRow

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PANEL = "[...document.querySelectorAll('section')].find(s => s.innerText.startsWith(arguments[0]))"
LABELS = f"""
    return [...{PANEL}.querySelectorAll('text')].map(
        t => [t.textContent, Number(t.getAttribute('x')), t.getAttribute('text-anchor')]);
"""
DOTS = f"""
    return [...{PANEL}.querySelectorAll('circle')].map(
        c => [Number(c.dataset.trial), Number(c.getAttribute('cx'))]);
"""


def row(number: int, *values: float, state: str = "complete", error: str = "") -> TrialRow:
    curve = tuple((epoch, values[0] * epoch / 4) for epoch in range(1, 5)) if values else ()
    params = {"optim.lr": 1e-3 * 3**number, "loss.name": "dice" if number % 2 else "bce"}
    return TrialRow(number, state, values, params, curve, 30.0, f"run{number}", number == 0, error)


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Open:
    """Opens the page of these trials."""

    def open_page(rows: list[TrialRow], second: str = "none") -> Any:
        found = [Importance("fANOVA", {"optim.lr": 1.0}), Importance("PED-ANOVA", {}, "few")]
        page = tmp_path / "page.html"
        page.write_text(search_page("any", rows, found, second), encoding="utf-8")
        browser.get(page.as_uri())
        return browser

    return open_page


def along_x(browser: Any, panel: str) -> dict[int, float]:
    """Whole numbers written under a panel's axis, and where."""
    labels = browser.execute_script(LABELS, panel)
    return {int(text): x for text, x, anchor in labels if anchor == "middle" and text.isdigit()}


def test_whole_numbers_stand_where_they_belong(opened: Open) -> None:
    browser = opened([row(i, 0.5 + 0.05 * i) for i in range(6)])
    trials, dots = (
        along_x(browser, "Optimisation history"),
        dict(browser.execute_script(DOTS, "Optimisation history")),
    )
    assert len(trials) >= 3
    assert {n: dots[n] for n in trials} == pytest.approx(trials)
    epochs = along_x(browser, "Learning curves")
    assert set(epochs) == {1, 2, 3, 4}
    steps = [epochs[i + 1] - epochs[i] for i in (1, 2, 3)]
    assert steps == pytest.approx([steps[0]] * 3)


def test_numbers_to_choose_from_stand_in_their_order(opened: Open) -> None:
    widths = [16, 8, 16, 8]
    rows = [replace(row(i, 0.5), params={"width": width}) for i, width in enumerate(widths)]
    places = along_x(opened(rows), "Dice against each parameter")
    assert places[8] < places[16]


def test_the_best_the_base_and_a_failures_reason_are_named(opened: Open) -> None:
    rows = [
        row(0, 0.7),
        row(1, 0.8),
        row(2, 0.3, state="pruned"),
        row(3, state="failed", error="out of memory"),
    ]
    browser = opened(rows)
    text = browser.execute_script("return document.body.innerText")
    assert "trial 001" in text
    assert "0.8000" in text
    assert "0.7000" in text
    assert "out of memory" in text


def test_the_front_is_marked_and_its_cost_has_a_unit(opened: Open) -> None:
    rows = [row(0, 0.7, 2.0), row(1, 0.8, 3.0), row(2, 0.6, 4.0)]
    browser = opened(rows, "parameters")
    labels = [text for text, *_ in browser.execute_script(LABELS, "Pareto front")]
    assert {"000", "001"} <= set(labels)
    assert "002" not in labels
    assert any("million" in text for text in labels)


@pytest.mark.parametrize("rows", [[row(0, 0.7)], [row(0, state="failed", error="x")]])
def test_a_page_of_one_trial_is_drawn_to_its_end(opened: Open, rows: list[TrialRow]) -> None:
    browser = opened(rows)
    assert browser.execute_script("return document.querySelectorAll('tbody tr').length") == 1
    drawn = browser.execute_script("return document.getElementById('grid').innerHTML")
    assert not {"NaN", "Infinity"} & set(re.findall(r"[A-Za-z]+", drawn))

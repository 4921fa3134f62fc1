"""The pictures of a search as one interactive, self-contained page."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from seglab.figures.search import STATES
from seglab.figures.trials import COSTS, Importance, TrialRow, rank_curve, searched_keys

_TEMPLATE = Path(__file__).with_name("search_page.html")


def search_page(
    name: str,
    rows: Sequence[TrialRow],
    found: Sequence[Importance],
    second: str,
    log_keys: Collection[str] = (),
) -> str:
    """Return HTML that needs no network: hover for a trial, click to follow it in every picture.

    Args:
        name: of the study.
        rows: its trials.
        found: parameter importance, an evaluator each.
        second: name of the second objective, or ``none``.
        log_keys: parameters that were drawn on a logarithmic scale.
    """
    data = {
        "name": name,
        "second": second,
        "cost": COSTS.get(second, second),
        "keys": searched_keys(rows),
        "log": sorted(log_keys),
        "colours": {state: "#{:02x}{:02x}{:02x}".format(*rgb) for state, rgb in STATES.items()},
        "importance": [asdict(one) for one in found],
        "trials": [{**asdict(row), "ranks": rank_curve(row, rows)} for row in rows],
    }
    # "</" would end the script element wherever it stands in a text.
    text = json.dumps(data, default=str).replace("</", "<\\/")
    return _TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", text)

"""Figures of a search: drawn from any study, and a page that stands by itself."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from seglab.studies.search.figures import pictures, search_page

HOSTILE = "</script><b>bold"


def study(count: int, *, two: bool = False) -> optuna.Study:
    """Trials 1 and 4 were pruned or failed, where there are as many."""
    made = optuna.create_study(directions=["maximize", "minimize"] if two else ["maximize"])
    domains = {
        "optim.lr": FloatDistribution(1e-4, 1, log=True),
        "loss.name": CategoricalDistribution(["bce", HOSTILE]),
    }
    for n in range(count):
        state = {1: TrialState.PRUNED, 4: TrialState.FAIL}.get(n, TrialState.COMPLETE)
        values = [0.5 + 0.03 * n, 60.0 - n][: 1 + two] if state == TrialState.COMPLETE else None
        made.add_trial(
            create_trial(
                state=state,
                values=values,
                params={"optim.lr": 1e-3 * 2**n, "loss.name": ["bce", HOSTILE][n % 2]},
                distributions=domains,
                intermediate_values={epoch: 0.1 * epoch for epoch in range(1, 4)},
            )
        )
    return made


@pytest.mark.parametrize(("count", "two"), [(1, False), (3, False), (8, False), (8, True)])
def test_any_study_has_a_page_and_pictures(tmp_path: Path, count: int, two: bool) -> None:
    made = study(count, two=two)
    page = search_page(made, HOSTILE, 0.5, "parameters" if two else "none")
    assert HOSTILE not in page
    assert ("network parameters, millions" in page) == two
    # The rest of the page is the library plotly.js, which loads nothing for these figures.
    assert not re.findall(r"<(?:script|link|img)[^>]*\b(?:src|href)=", page)
    drawn = dict(pictures(made, 0.5))
    assert ("slices-1" in drawn, "importance" in drawn) == (count > 1, count > 4)
    labels = [line.get_label() for line in drawn["history"].axes[0].lines]
    assert "base config" in labels
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")

"""Error rates of verdicts; ``python -m tests.verdicts`` measures more settings, longer."""

from __future__ import annotations

import pytest

from tests.verdicts.simulate import (
    Setting,
    false_claims,
    false_equivalence,
    find_planted,
    skewed_arms,
)


@pytest.mark.parametrize(
    "setting",
    [
        Setting(2, 1),
        Setting(2, 2, sd_run=0.005),
        Setting(2, 2, sd_run=0.012, noise=1.0),
        Setting(3, 3, sd_run=0.01),
        Setting(10, 1),
    ],
    ids=str,
)
def test_equal_arms_are_rarely_claimed_to_differ(setting: Setting) -> None:
    assert false_claims(setting, 200, seed=1) <= 0.06


def test_arms_that_differ_in_shape_but_not_in_mean_are_rarely_claimed_to_differ() -> None:
    """5 % and two standard errors; with ranks and a plain interval it would be 17 %."""
    assert false_claims(Setting(10), 200, draw=skewed_arms) <= 0.08


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_a_planted_difference_is_found_as_power_theory_says(tails: str) -> None:
    found = find_planted(Setting(), 1_000, tails=tails)
    assert found.power == pytest.approx(found.theory, abs=0.05)
    assert 0.93 <= found.coverage <= 0.97


@pytest.mark.parametrize("sd_run", [0.0, 0.01])
def test_a_difference_at_the_margin_is_rarely_called_equivalent(sd_run: float) -> None:
    assert false_equivalence(Setting(2, 3, sd_run=sd_run), 250) <= 0.06

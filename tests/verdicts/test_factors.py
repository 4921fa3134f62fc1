"""How often effects of factors are found, missed and covered, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from seglab.core.factors import Design
from tests.evaluation.test_factors import effects_of
from tests.verdicts.simulate import Array, Setting, draw

pytestmark = pytest.mark.slow
GRIDS, RESAMPLES = 200, 999


def grids(setting: Setting, change: Array) -> list[Array]:
    """Dice (arms, seeds, patients) of each grid; ``change`` (arms,) is added."""
    rng = np.random.default_rng(5)
    return list(draw(rng, setting, GRIDS) + change[:, None, None])


@pytest.mark.parametrize(("factors", "seeds"), [(2, 1), (2, 3), (3, 1)])
def test_a_planted_interaction_is_found_and_main_effects_are_covered(
    factors: int, seeds: int
) -> None:
    design = Design({f"f{k}": ("a", "b") for k in range(factors)})
    points = np.array(list(design.points.values()))
    change = 0.03 * points[:, 0] * points[:, 1] + 0.01 * points[:, 0]
    truth = np.array([0.01 + 0.015, 0.015, 0.0])[:factors]
    found = covered = 0
    for values in grids(Setting(len(points), seeds, shape="normal"), change):
        result = effects_of(values, design, RESAMPLES)
        found += result.interactions[0].p_holm <= 0.05
        mains = result.effects[:factors]
        covered += sum(
            one.ci_low <= true <= one.ci_high for one, true in zip(mains, truth, strict=True)
        )
    assert found >= 0.8 * GRIDS
    assert 0.93 <= covered / GRIDS / factors <= 0.97


@pytest.mark.parametrize("shape", ["normal", "dice"])
def test_no_interaction_is_rarely_called_one(shape: str) -> None:
    design = Design(dict.fromkeys("abc", ("a", "b")))
    change, setting = np.zeros(8), Setting(8, shape=shape)  # type: ignore[arg-type]
    false = [
        any(one.p_holm <= 0.05 for one in effects_of(values, design, RESAMPLES).interactions)
        for values in grids(setting, change)
    ]
    assert np.mean(false) <= 0.06

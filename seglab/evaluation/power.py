"""How many patients would decide: sample sizes of the paired comparison.

Both take the observed difference and the observed spread of the differences as if
they were the truth, which makes them a guide for planning and nothing more. The luck
of seeds stays however many patients there are: where it alone is too large, no number
of patients decides, and more seeds would.
"""

from __future__ import annotations

import math
from statistics import NormalDist

NORMAL = NormalDist()
POWER = 0.80
MOST_PATIENTS = 10_000_000


def patients_to_detect(
    difference: float, sd: float, level: float, seed_variance: float = 0.0
) -> int | None:
    """Patients for which a two-sided paired t-test finds ``difference`` with 80 % power.

    n = ((z(1-a/2) + z(power)) · sd / difference)² + z(1-a/2)²/2 (Guenther 1981), within
    one patient of the exact noncentral t; sd²/n + ``seed_variance`` is the squared error.

    Args:
        difference: Mean paired difference, of either sign.
        sd: Standard deviation of the paired differences.
        level: Significance level of the test.
        seed_variance: What seeds add to the squared error of the mean difference.

    Returns:
        At least 2; None where no number of patients is enough.
    """
    if difference == 0:
        return None
    z = NORMAL.inv_cdf(1 - level / 2)
    return _patients(abs(difference) / (z + NORMAL.inv_cdf(POWER)), sd, z, seed_variance)


def patients_for_equivalence(
    difference: float, sd: float, margin: float, level: float, seed_variance: float = 0.0
) -> int | None:
    """Patients for which two one-sided tests show equivalence with 80 % power.

    Solves power = F((margin - d)/e - z) + F((margin + d)/e - z) - 1 for the error e, with d
    the absolute difference and z = z(1-a); e² = sd²/n + ``seed_variance`` gives n, plus
    z²/2 for the estimated spread.

    Returns:
        At least 2; None where the difference is not within the margin, or seeds alone
        leave it open.
    """
    d, z = abs(difference), NORMAL.inv_cdf(1 - level)
    if d >= margin:
        return None

    def lacks_power(precision: float) -> bool:
        sides = (margin - d) * precision - z, (margin + d) * precision - z
        return sum(map(NORMAL.cdf, sides)) - 1 < POWER

    # Both sides at 90 % power always suffice: an upper bound to halve from.
    low, high = 0.0, (z + NORMAL.inv_cdf((1 + POWER) / 2)) / (margin - d)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if lacks_power(middle) else (low, middle)
    return _patients(1 / high, sd, z, seed_variance)


def _patients(largest_error: float, sd: float, z: float, seed_variance: float) -> int | None:
    """Patients that bring the error of the mean down to ``largest_error``."""
    left = largest_error**2 - seed_variance
    if left <= 0:
        return None
    needed = sd**2 / left + z**2 / 2
    return max(2, math.ceil(needed)) if needed < MOST_PATIENTS else None

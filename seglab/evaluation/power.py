"""How many patients would decide: sample sizes of the paired comparison.

Both take the observed difference and the observed spread of the differences as if
they were the truth, which makes them a guide for planning and nothing more.
"""

from __future__ import annotations

import math
from statistics import NormalDist

NORMAL = NormalDist()
POWER = 0.80
MOST_PATIENTS = 10_000_000


def patients_to_detect(difference: float, sd: float, level: float) -> int | None:
    """Patients for which a two-sided paired t-test finds ``difference`` with 80 % power.

    n = ((z(1-a/2) + z(power)) · sd / difference)² + z(1-a/2)²/2 (Guenther 1981), within
    one patient of the exact noncentral t.

    Args:
        difference: Mean paired difference, of either sign.
        sd: Standard deviation of the paired differences.
        level: Significance level of the test.

    Returns:
        At least 2; None where no number of patients is enough (no difference).
    """
    if difference == 0:
        return None
    z = NORMAL.inv_cdf(1 - level / 2)
    return _patients((z + NORMAL.inv_cdf(POWER)) * sd / abs(difference), z)


def patients_for_equivalence(
    difference: float, sd: float, margin: float, level: float
) -> int | None:
    """Patients for which two one-sided tests show equivalence with 80 % power.

    Solves power(n) = F((margin - d)√n/sd - z) + F((margin + d)√n/sd - z) - 1 for d the
    absolute difference and z = z(1-a), plus z²/2 for the estimated spread.

    Returns:
        At least 2; None where the difference is not within the margin.
    """
    d, z = abs(difference), NORMAL.inv_cdf(1 - level)
    if d >= margin:
        return None

    def lacks_power(root_n_by_sd: float) -> bool:
        sides = (margin - d) * root_n_by_sd - z, (margin + d) * root_n_by_sd - z
        return sum(map(NORMAL.cdf, sides)) - 1 < POWER

    # Both sides at 90 % power always suffice: an upper bound to halve from.
    low, high = 0.0, (z + NORMAL.inv_cdf((1 + POWER) / 2)) / (margin - d)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if lacks_power(middle) else (low, middle)
    return _patients(high * sd, z)


def _patients(root_n: float, z: float) -> int | None:
    needed = root_n**2 + z**2 / 2
    return max(2, math.ceil(needed)) if needed < MOST_PATIENTS else None

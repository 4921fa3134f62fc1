"""What a comparison cannot tell: too few seeds or patients, or runs that luck moves too far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seglab.evaluation import paired_tests
from seglab.evaluation.arms import PairedTable
from seglab.evaluation.bootstrap import FEWEST_PATIENTS

if TYPE_CHECKING:
    from seglab.evaluation.comparison import ArmRow


def cautions(table: PairedTable, level: float) -> tuple[str, ...]:
    """Say it, a sentence each: one seed, unlike seeds, too few patients, patients left out.

    Args:
        table: what is compared.
        level: of the tests.
    """
    seeds = sorted({len(values) for values in table.by_seed})
    n, others = len(table.patients), len(table.arms) - 1
    found = []
    if seeds[-1] == 1:
        found.append(
            "one seed only: the spread over seeds is unknown, and a verdict holds for these "
            "runs, not for the methods"
        )
    if len(seeds) > 1:
        found.append(f"arms have different numbers of seeds: {seeds[0]} to {seeds[-1]}")
    if paired_tests.smallest_p(n) * others >= level:
        enough = int(np.floor(np.log2(others / level))) + 2
        found.append(
            f"{n} patients cannot show a difference between {others + 1} arms, whatever their "
            f"scores: at least {enough} are needed for a corrected p below {level:.2g}"
        )
    if n < FEWEST_PATIENTS:
        found.append(f"{n} patients are too few to resample: intervals are Student's")
    if table.left_out:
        found.append(
            f"{len(table.left_out)} of {n + len(table.left_out)} patients have no score "
            "(no tumour) and are left out"
        )
    return tuple(found)


def seed_cautions(rows: Sequence[ArmRow], variance: float, level: float) -> list[str]:
    """Name the arms whose difference is that of these runs, but may be luck.

    Args:
        rows: the arms.
        variance: that a seed gives to an arm's mean.
        level: of the tests.
    """
    return [
        f"arm '{row.arm}' differs on these patients, but not beyond the luck of seeds "
        f"(SD {np.sqrt(variance):.4f} a run): more seeds would decide"
        + (", not more patients" if row.patients_to_detect is None else "")
        for row in rows
        if max(row.p_holm, row.p_mean_holm) < level <= row.p_seeds
    ]

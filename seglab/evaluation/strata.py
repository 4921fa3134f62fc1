"""Small, medium and large tumours: where an arm wins and where it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from seglab.core.errors import UserError
from seglab.evaluation.arms import ArmScores
from seglab.evaluation.comparison import Comparison, compare_arms

SIZES = ("small", "medium", "large")
FEWEST_IN_STRATUM = 3


def stratify(volumes: ArrayLike) -> list[str | None]:
    """Name each patient's tertile of tumour volume.

    Args:
        volumes: (n,) in any unit; 0 and NaN have no tumour and belong to no stratum.

    Returns:
        "small", "medium", "large" or None for each. Equal volumes share a stratum.
    """
    sizes = np.asarray(volumes, dtype=np.float64)
    tumour = sizes > 0
    if not tumour.any():
        return [None] * sizes.size
    edges = np.quantile(sizes[tumour], [1 / 3, 2 / 3])
    ranks = np.searchsorted(edges, sizes, side="left")
    return [SIZES[r] if has else None for r, has in zip(ranks, tumour, strict=True)]


def compare_strata(
    arms: Sequence[ArmScores],
    baseline: str,
    strata: Mapping[str, str | None],
    *,
    margin: float = 0.01,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare the arms within each stratum of patients.

    Holm's correction covers the arms of a stratum, not the strata: these are hints
    where to look, the claims are made on all patients together.

    Args:
        arms: As for :func:`compare_arms`.
        baseline: Name of one of them.
        strata: Stratum of each patient; None leaves a patient out.
        margin: See :func:`compare_arms`, as for the rest.

    Returns:
        One comparison a stratum, in order of first appearance; strata in which fewer
        than three patients have a score are left out.

    Raises:
        UserError: a patient is in no stratum, or as :func:`compare_arms`.
    """
    for arm in arms:
        unknown = [patient for patient in arm.patients if patient not in strata]
        if unknown:
            raise UserError(f"arm '{arm.arm}': patient {unknown[0]} has no stratum")
    found = {}
    for name in dict.fromkeys(label for label in strata.values() if label is not None):
        members = {patient for patient, label in strata.items() if label == name}
        subset = [_only(arm, members) for arm in arms]
        if all(_scored(arm) >= FEWEST_IN_STRATUM for arm in subset):
            found[name] = compare_arms(
                subset,
                baseline,
                margin=margin,
                confidence=confidence,
                resamples=resamples,
                seed=seed,
            )
    return found


def _only(arm: ArmScores, members: set[str]) -> ArmScores:
    kept = [i for i, patient in enumerate(arm.patients) if patient in members]
    patients = tuple(arm.patients[i] for i in kept)
    return ArmScores(arm.arm, arm.seeds, patients, arm.values[:, kept])


def _scored(arm: ArmScores) -> int:
    return int((~np.isnan(arm.values).any(axis=0)).sum())

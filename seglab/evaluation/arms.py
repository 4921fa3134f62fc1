"""Scores of the arms of an ablation, laid patient by patient beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ArmScores:
    """One score of one arm for every seed and patient."""

    arm: str
    seeds: tuple[int, ...]
    patients: tuple[str, ...]
    values: FloatArray
    """(seeds, patients); NaN where a patient has no such score."""

    def __post_init__(self) -> None:
        expected = (len(self.seeds), len(self.patients))
        if self.values.shape != expected:
            raise ValueError(f"arm {self.arm}: values are {self.values.shape}, not {expected}")
        for kind, names in (("seed", self.seeds), ("patient", self.patients)):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise UserError(f"arm '{self.arm}': {kind} {twice[0]} is given twice")
        if not self.seeds:
            raise UserError(f"arm '{self.arm}' has no finished seed")


@dataclass(frozen=True)
class PairedTable:
    """The patients every arm has a score for, in one order."""

    arms: tuple[str, ...]
    patients: tuple[str, ...]
    left_out: tuple[str, ...]
    """Patients without a score (NaN) in some arm or seed: left out of all arms."""
    by_seed: tuple[FloatArray, ...]
    """One (seeds, patients) array an arm."""

    @property
    def means(self) -> FloatArray:
        """(arms, patients) averaged over seeds."""
        return np.stack([values.mean(axis=0) for values in self.by_seed])


def pair(arms: Sequence[ArmScores]) -> PairedTable:
    """Line up arms by patient.

    Raises:
        UserError: no arm, two arms of one name, a patient missing in an arm, or no
            patient with a score in every arm.
    """
    if not arms:
        raise UserError("nothing to compare: no arm has a finished run")
    names = [arm.arm for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"arm '{name}' is given twice")
    _refuse_missing(arms)
    order = arms[0].patients
    aligned = []
    for arm in arms:
        column = {patient: i for i, patient in enumerate(arm.patients)}
        aligned.append(arm.values[:, [column[patient] for patient in order]])
    scored = ~np.any([np.isnan(values).any(axis=0) for values in aligned], axis=0)
    if not scored.any():
        raise UserError("nothing to compare: no patient has a score in every arm")
    return PairedTable(
        arms=tuple(names),
        patients=tuple(p for p, kept in zip(order, scored, strict=True) if kept),
        left_out=tuple(p for p, kept in zip(order, scored, strict=True) if not kept),
        by_seed=tuple(values[:, scored] for values in aligned),
    )


def _refuse_missing(arms: Sequence[ArmScores]) -> None:
    everyone = {patient: None for arm in arms for patient in arm.patients}
    for arm in arms:
        present = set(arm.patients)
        absent = [patient for patient in everyone if patient not in present]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise UserError(
                f"arm '{arm.arm}' has no patient {absent[0]}{more}: "
                "arms are compared on the same patients"
            )

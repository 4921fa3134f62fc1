"""What a stage is, and what measuring it gives."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seglab.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from benchmarks.material import Material


class Unavailable(Exception):
    """A stage cannot be measured here; the message says what is missing."""


@dataclass(frozen=True)
class Goal:
    """What a stage should reach: in its ratio, or where ``unit`` is given in our own figure."""

    limit: float
    at_most: bool = False
    unit: str = ""
    """Of our own figure; empty for the ratio."""

    def met(self, measured: Measurement) -> bool | None:
        """Whether it is reached; None where the figure is not known."""
        figure = measured.ours if self.unit else measured.ratio
        if figure is None:
            return None
        return figure <= self.limit if self.at_most else figure >= self.limit

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else "×"
        return f"{'≤' if self.at_most else '≥'} {self.limit:,g}{unit}"


@dataclass(frozen=True)
class Measurement:
    """Figures of one stage, in its unit."""

    ours: float
    reference: float | None = None
    """None where there is nothing to compare with."""
    ratio: float | None = None
    note: str = ""
    """What a reader must know beside the figures, e.g. which variant of the reference won."""
    split: Mapping[str, float] = field(default_factory=dict)
    """Where the time of ours went: part → seconds."""


@dataclass(frozen=True)
class Stage:
    """One line of the table."""

    name: str
    group: str
    unit: str
    meaning: str
    """One line: what is measured, against what."""
    goal: Goal | None
    device: str
    """The device type it is about."""
    measure: Callable[[Material], Measurement]


STAGES: dict[str, Stage] = {}
GROUPS = ("prepare", "batches", "training", "evaluation", "start", "memory", "gpu")
"""In the order of the table."""


def stage(
    name: str, group: str, unit: str, *, goal: Goal | None = None, device: str = "cpu"
) -> Callable[[Callable[[Material], Measurement]], Callable[[Material], Measurement]]:
    """Register a function as a stage; the first line of its docstring is what a user reads.

    Args:
        name: as ``--stages`` takes it.
        group: one of ``GROUPS``, the heading above it.
        unit: of both figures.
        goal: of the ratio.
        device: ``cpu`` or ``cuda``; measured only when that one is benched.
    """

    def decorate(
        measure: Callable[[Material], Measurement],
    ) -> Callable[[Material], Measurement]:
        meaning = (measure.__doc__ or "").strip().splitlines()[0].rstrip(".")
        STAGES[name] = Stage(name, group, unit, meaning, goal, device, measure)
        return measure

    return decorate


def choose(names: Sequence[str], device: str) -> list[Stage]:
    """The stages of a device; ``names`` of stages or groups narrows them down.

    Raises:
        UserError: no such stage or group, or none of them is about this device.
    """
    known = {name for stage in STAGES.values() for name in (stage.name, stage.group)}
    for name in names:
        if name not in known:
            raise unknown_name("stage", name, known)
    # "batches" is a stage and a group: the stage is meant.
    groups = set(names) - set(STAGES)
    ordered = sorted(STAGES.values(), key=lambda stage: GROUPS.index(stage.group))
    chosen = [
        stage
        for stage in ordered
        if stage.device == device and (not names or stage.name in names or stage.group in groups)
    ]
    if not chosen:
        raise UserError(f"--stages {' '.join(names)}: none of them is measured on {device}")
    return chosen


def compare_rates(count: float, ours: Sequence[float], reference: Sequence[float]) -> Measurement:
    """Turn seconds, taken in turn, for ``count`` things each into rates; the ratio is a speed-up.

    The ratio is the median over the pairs: a machine that slows down halfway slows both.
    """
    pairs = zip(ours, reference, strict=True)
    return Measurement(
        ours=count / statistics.median(ours),
        reference=count / statistics.median(reference),
        ratio=statistics.median(theirs / own for own, theirs in pairs),
    )

"""Measure the chosen stages, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.material import Material
from benchmarks.stage import Measurement, Stage, Unavailable
from benchmarks.timing import CALM, Watch


@dataclass(frozen=True)
class Row:
    """A stage and what came of it."""

    stage: Stage
    measured: Measurement | None
    skipped: str = ""
    """Why it was not measured."""
    host_kept: float = 0.0
    """Share of the processor time that a virtual machine's host kept from it meanwhile."""

    @property
    def note(self) -> str:
        """What a reader must know beside the figures."""
        if self.measured is None:
            return self.skipped
        disturbed = f"the host kept {self.host_kept:.0%} of the processor time meanwhile"
        notes = [self.measured.note, disturbed if self.host_kept > CALM else ""]
        return "; ".join(note for note in notes if note)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or no figure."""
        if self.measured is None or self.stage.goal is None:
            return None
        return self.stage.goal.met(self.measured)

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it; ``target`` is the limit of what ``target_of`` names."""
        goal, measured = self.stage.goal, self.measured
        return {
            "stage": self.stage.name,
            "group": self.stage.group,
            "ours": measured.ours if measured else None,
            "reference": measured.reference if measured else None,
            "ratio": measured.ratio if measured else None,
            "target": goal.limit if goal else None,
            "target_of": None if goal is None else "ours" if goal.unit else "ratio",
            "target_is": None if goal is None else "at most" if goal.at_most else "at least",
            "met": self.met,
            "unit": self.stage.unit,
            "meaning": self.stage.meaning,
            "note": measured.note if measured else "",
            "split": dict(measured.split) if measured else {},
            "host_kept": self.host_kept,
            "skipped": self.skipped or None,
        }


def run_stages(stages: Sequence[Stage], material: Material) -> Iterator[Row]:
    """Yield each row as soon as it is measured; what cannot be measured here is skipped."""
    for stage in stages:
        watch = Watch()
        try:
            measured = stage.measure(material)
            yield Row(stage, measured, host_kept=watch.taken())
        except Unavailable as reason:
            yield Row(stage, None, str(reason))

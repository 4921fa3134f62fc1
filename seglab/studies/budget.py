"""Equal budgets: what each arm of an ablation spent, and which may be held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["samples", "seconds"]
TOLERANCE = 0.10
"""Arms whose budgets differ by more than this share are not ranked."""
METRIC: Mapping[str, str] = {"samples": "cost/images", "seconds": "cost/train_seconds"}


@dataclass(frozen=True)
class Spent:
    """What one arm was given; means over its finished runs, totals over its tuning."""

    arm: str
    runs: int
    images: float
    """Samples of a run."""
    train_seconds: float
    """Of a run."""
    trials: int = 0
    """Tuning trials that finished; a failed one has no say in the choice."""
    trial_images: float = 0.0
    """Samples of all finished tuning trials together."""
    trial_seconds: float = 0.0

    def per_run(self, unit: Unit) -> float:
        """The budget that was declared: samples or training seconds of a run."""
        return self.images if unit == "samples" else self.train_seconds

    def for_tuning(self, unit: Unit) -> float:
        """The same of all tuning trials together."""
        return self.trial_images if unit == "samples" else self.trial_seconds


@dataclass(frozen=True)
class Budgets:
    """What all arms spent, and which of them may be held against each other."""

    unit: Unit
    arms: Sequence[Spent]

    def differs(self, arm: str, other: str) -> bool:
        """Whether two arms were given budgets too different to rank one above the other."""
        a, b = self._of(arm), self._of(other)
        spent = [(s.per_run(self.unit), s.for_tuning(self.unit)) for s in (a, b)]
        return a.trials != b.trials or any(
            max(both) > min(both) * (1 + TOLERANCE) for both in zip(*spent, strict=True)
        )

    @property
    def all_equal(self) -> bool:
        """Whether every arm may be ranked against every other."""
        names = [spent.arm for spent in self.arms]
        return not any(self.differs(a, b) for a in names for b in names)

    def refusal(self) -> str | None:
        """Say why arms are not ranked; None where they may be."""
        if self.all_equal:
            return None
        noun = "images" if self.unit == "samples" else "seconds of training"
        spent = ", ".join(
            f"{arm.arm} {arm.per_run(self.unit):,.0f}"
            + (self._tuning(arm) if any(a.trials for a in self.arms) else "")
            for arm in self.arms
        )
        remedy = (
            "set train.samples_per_epoch and train.epochs alike, and no train.patience"
            if self.unit == "samples"
            else "give all of them seconds enough for many steps"
        )
        if len({arm.trials for arm in self.arms}) > 1:
            remedy += "; the same command repeats tuning trials that failed"
        return (
            f"Not ranked: budgets differ by more than {TOLERANCE:.0%} ({noun} a run: {spent}). "
            f"What more training gave cannot be told from what the arm gave; {remedy}."
        )

    def _tuning(self, spent: Spent) -> str:
        return f" and {spent.trials} tuning trials of {spent.for_tuning(self.unit):,.0f} in all"

    def _of(self, arm: str) -> Spent:
        return next(spent for spent in self.arms if spent.arm == arm)

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
    """Tuning runs that finished; a failed one has no say in the choice."""
    trial_images: float = 0.0
    """Samples of all finished tuning runs together."""
    trial_seconds: float = 0.0

    def of(self, unit: Unit) -> tuple[float, float]:
        """Samples or training seconds of a run, and of all tuning runs together."""
        if unit == "samples":
            return self.images, self.trial_images
        return self.train_seconds, self.trial_seconds


@dataclass(frozen=True)
class Budgets:
    """What all arms spent, and which of them may be held against each other."""

    unit: Unit
    arms: Sequence[Spent]

    def differs(self, arm: str, other: str) -> bool:
        """Whether two arms were given budgets too different to rank one above the other."""
        a, b = (next(spent for spent in self.arms if spent.arm == name) for name in (arm, other))
        pairs = zip(a.of(self.unit), b.of(self.unit), strict=True)
        return a.trials != b.trials or any(max(p) > min(p) * (1 + TOLERANCE) for p in pairs)

    @property
    def all_equal(self) -> bool:
        """Whether every arm may be ranked against every other."""
        names = [spent.arm for spent in self.arms]
        return not any(self.differs(a, b) for a in names for b in names)

    def refusal(self) -> str | None:
        """Say why arms are not ranked; None where they may be."""
        if self.all_equal:
            return None
        told = []
        for arm in self.arms:
            run, tuning = arm.of(self.unit)
            more = f" and {arm.trials} tuning trials of {tuning:,.0f} in all"
            told.append(f"{arm.arm} {run:,.0f}{more if any(a.trials for a in self.arms) else ''}")
        noun, remedy = {
            "samples": (
                "images",
                "set train.samples_per_epoch and train.epochs alike, and no train.patience",
            ),
            "seconds": ("seconds of training", "give all of them seconds enough for many steps"),
        }[self.unit]
        if len({arm.trials for arm in self.arms}) > 1:
            remedy += "; the same command repeats tuning trials that failed"
        return (
            f"Not ranked: budgets differ by more than {TOLERANCE:.0%} ({noun} a run: "
            f"{', '.join(told)}). What more training gave cannot be told from what the arm gave; "
            f"{remedy}."
        )

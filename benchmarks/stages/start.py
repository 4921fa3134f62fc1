"""From the command to the first training step."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks import first_step
from benchmarks.material import Material
from benchmarks.stage import Goal, Measurement, stage
from benchmarks.timing import in_turn
from seglab.studies.data import open_data

PACKAGES = """
import albumentations, torch
from mlflow.store.tracking import sqlalchemy_store
weight = torch.zeros(1, requires_grad=True)
weight.grad = torch.ones(1)
torch.optim.AdamW([weight]).step()
"""
"""What no run can do without: it takes most of the time."""


@stage("first-step", "start", "s", goal=Goal(3, at_most=True))
def time_to_first_step(material: Material) -> Measurement:
    """From the command to the end of the first step, cache filled, against import torch."""
    config = material.config()
    open_data(config)
    path = material.scratch / "first_step.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()), encoding="utf-8")
    contestants = {
        "ours": lambda: _python("-m", first_step.__name__, str(path)),
        "torch": lambda: _python("-c", "import torch"),
        "packages": lambda: _python("-c", PACKAGES),
    }
    seconds = in_turn(contestants, material.scale.rounds)
    packages = _ratio(seconds["packages"], seconds["torch"])
    return Measurement(
        ours=statistics.median(seconds["ours"]),
        reference=statistics.median(seconds["torch"]),
        ratio=_ratio(seconds["ours"], seconds["torch"]),
        note=f"to import the packages and step an AdamW alone: {packages:.1f}×",
    )


def _ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(own / theirs for own, theirs in zip(ours, reference, strict=True))


def _python(*arguments: str) -> None:
    root = Path(first_step.__file__).parents[1]
    subprocess.run(
        [sys.executable, *arguments], check=True, cwd=root, stdout=subprocess.DEVNULL, stderr=None
    )

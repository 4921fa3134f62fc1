"""What a study would do, before it does it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from seglab.core.config import RunConfig
from seglab.core.study import Study
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer
from seglab.models import count_parameters, gflops_per_image
from seglab.studies.budget import with_budget
from seglab.studies.data import SharedData, StudyData, share_patients
from seglab.studies.tuning import tuning_trials


@dataclass(frozen=True)
class ArmPlan:
    """One arm: what it is made of, and what each of its runs will take."""

    arm: str
    config_hash: str
    image_hw: tuple[int, int]
    parameters_m: float
    gflops_per_image: float
    steps_per_epoch: int
    epochs: int
    images: int
    estimated_seconds: float


@dataclass(frozen=True)
class StudyPlan:
    """A study before it starts."""

    experiment: str
    patients: dict[str, int]
    split_hash: str
    seeds: Sequence[int]
    folds: int
    tuning_trials: int
    """Extra runs of each arm that choose its nuisance parameters."""
    arms: Sequence[ArmPlan]

    @property
    def estimated_seconds(self) -> float:
        """Of all runs, one after the other, validation included."""
        runs = len(self.seeds) * self.folds + self.tuning_trials
        return sum(arm.estimated_seconds for arm in self.arms) * runs

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "estimated_seconds": self.estimated_seconds}

    def to_text(self) -> str:
        """A page for a person."""
        counts = ", ".join(f"{count} {part}" for part, count in self.patients.items())
        lines = [
            f"experiment '{self.experiment}': {len(self.arms)} arm(s) × {len(self.seeds)} seed(s) "
            f"× {self.folds} fold(s), {self.tuning_trials} tuning trial(s) an arm",
            f"patients: {counts} (split {self.split_hash})",
        ]
        for arm in self.arms:
            lines.append(
                f"  {arm.arm}: {arm.image_hw[0]}×{arm.image_hw[1]} px, "
                f"{arm.parameters_m:.2f} M parameters, {arm.gflops_per_image:.2f} GFLOP an image, "
                f"{arm.epochs} epochs × {arm.steps_per_epoch} steps = {arm.images} images, "
                f"about {arm.estimated_seconds / 60:.1f} min a run"
            )
        lines.append(f"in all about {self.estimated_seconds / 60:.0f} min on this machine")
        return "\n".join(lines)


def make_plan(study: Study) -> StudyPlan:
    """Open the data, build every network, time a few steps of each; train and log nothing.

    Raises:
        UserError: anything that would stop the study before its first step.
    """
    study = with_budget(share_patients(study))
    tuning_trials(study, "")  # refuses a space that an arm does not fit
    shared = SharedData()
    data = {arm: shared.of(config) for arm, config in study.arms.items()}
    first = next(iter(data.values()))
    parts = {"train": first.split.train, "validation": first.split.val, "test": first.split.test}
    return StudyPlan(
        experiment=study.name,
        patients={part: len(names) for part, names in parts.items()},
        split_hash=first.split.hash,
        seeds=study.seeds,
        folds=len(study.folds),
        tuning_trials=study.tune.trials if study.tune else 0,
        arms=[_plan_arm(arm, study.arms[arm], data[arm]) for arm in study.arms],
    )


def _plan_arm(arm: str, config: RunConfig, data: StudyData) -> ArmPlan:
    trainer = Trainer(config, data.cache, data.split.train, choose_compute(config.train))
    height, width = data.cache.shape
    images = trainer.loader.samples * config.train.epochs
    validated = sum(data.cache.by_id[name].count for name in data.split.val) * config.train.epochs
    # A forward pass is about a third of a training step.
    seconds = (images + validated / 3) * seconds_per_image(trainer, (height, width))
    if config.train.max_seconds is not None:
        seconds = min(seconds, config.train.max_seconds)
    return ArmPlan(
        arm=arm,
        config_hash=config.hash(),
        image_hw=(height, width),
        parameters_m=count_parameters(trainer.network) / 1e6,
        gflops_per_image=gflops_per_image(trainer.network, trainer.channels, (height, width)),
        steps_per_epoch=trainer.loader.batches,
        epochs=config.train.epochs,
        images=images,
        estimated_seconds=seconds,
    )


def seconds_per_image(trainer: Trainer, image_hw: tuple[int, int], steps: int = 3) -> float:
    """Time forward and backward passes on random images; the first is a warm-up."""
    batch = trainer.config.train.batch_size
    images = torch.rand(batch, trainer.channels, *image_hw, device=trainer.compute.device)
    images = images.contiguous(memory_format=torch.channels_last)
    masks = (images[:, :1] > 0.9).float()
    started = 0.0
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        with trainer.compute.autocast():
            logits = trainer.network(images)
        loss = trainer.loss(logits.float(), masks)
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())  # waits for the device
    return (time.perf_counter() - started) / (steps * batch)

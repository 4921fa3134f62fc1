"""What a study would do, before it does it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from seglab.core.config import RunConfig
from seglab.core.study import Study
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer
from seglab.models import count_parameters, gflops_per_image
from seglab.studies.data import SharedData, StudyData, share_patients
from seglab.studies.tuning import tuning_plans


def make_plan(study: Study) -> dict[str, Any]:
    """Open the data, build every network, time a few steps of each; train and log nothing.

    Returns:
        The keys of ``--dry-run --json``.

    Raises:
        UserError: anything that would stop the study before its first step.
    """
    study = share_patients(study)
    tuning_plans(study, "")  # refuses a space that an arm does not fit
    shared = SharedData()
    arms = [_plan_arm(arm, config, shared.of(config)) for arm, config in study.arms.items()]
    split = shared.of(study.reference).split
    parts = {"train": split.train, "validation": split.val, "test": split.test}
    folds, tries = len(study.folds), study.tune.trials if study.tune else 0
    runs = len(study.seeds) * folds + tries
    return {
        "experiment": study.name,
        "patients": {part: len(names) for part, names in parts.items()},
        "split_hash": split.hash,
        "seeds": list(study.seeds),
        "folds": folds,
        "tuning_trials": tries,
        "arms": arms,
        "estimated_seconds": sum(arm["estimated_seconds"] for arm in arms) * runs,
    }


def plan_text(plan: Mapping[str, Any]) -> str:
    """A page for a person."""
    counts = ", ".join(f"{count} {part}" for part, count in plan["patients"].items())
    lines = [
        f"experiment '{plan['experiment']}': {len(plan['arms'])} arm(s) × {len(plan['seeds'])} "
        f"seed(s) × {plan['folds']} fold(s), {plan['tuning_trials']} tuning trial(s) an arm",
        f"patients: {counts} (split {plan['split_hash']})",
    ]
    for arm in plan["arms"]:
        height, width = arm["image_hw"]
        lines.append(
            f"  {arm['arm']}: {height}×{width} px, {arm['parameters_m']:.2f} M parameters, "
            f"{arm['gflops_per_image']:.2f} GFLOP an image, {arm['epochs']} epochs × "
            f"{arm['steps_per_epoch']} steps = {arm['images']} images, "
            f"about {arm['estimated_seconds'] / 60:.1f} min a run"
        )
    minutes = plan["estimated_seconds"] / 60
    return "\n".join([*lines, f"in all about {minutes:.0f} min on this machine"])


def _plan_arm(arm: str, config: RunConfig, data: StudyData) -> dict[str, Any]:
    trainer = Trainer(config, data.cache, data.split.train, choose_compute(config.train))
    image_hw = data.cache.shape
    images = trainer.loader.samples * config.train.epochs
    validated = sum(data.cache.by_id[name].count for name in data.split.val) * config.train.epochs
    # A forward pass is about a third of a training step.
    seconds = (images + validated / 3) * _seconds_per_image(trainer, image_hw)
    return {
        "arm": arm,
        "config_hash": config.hash(),
        "image_hw": list(image_hw),
        "parameters_m": count_parameters(trainer.network) / 1e6,
        "gflops_per_image": gflops_per_image(trainer.network, trainer.channels, image_hw),
        "steps_per_epoch": trainer.loader.batches,
        "epochs": config.train.epochs,
        "images": images,
        "estimated_seconds": min(seconds, config.train.max_seconds or seconds),
    }


def _seconds_per_image(trainer: Trainer, image_hw: tuple[int, int], steps: int = 3) -> float:
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

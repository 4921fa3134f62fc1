"""Training on a GPU: how fast, how much of the card, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch

from benchmarks.card import Card, Traffic, launch_seconds, measure_card, seconds_of, wait
from benchmarks.material import Material
from benchmarks.references.loaders import run_through
from benchmarks.stage import Goal, Measurement, compare_rates, stage
from benchmarks.timing import in_turn
from seglab.learning.batches import TensorBatch
from seglab.learning.training import Trainer, compiled, train_epoch, train_step
from seglab.models import gflops_per_image
from seglab.studies.data import open_data

BATCH = 32
SAMPLES_FACTOR = 10
"""So many times the samples: a GPU is through with a processor's share at once."""
CLASSIC = {"name": "unet", "base_channels": 64}
RESNET34 = {"name": "smp-unet", "encoder": "resnet34"}


@stage("gpu-matrix", "gpu", "TFLOP/s", device="cuda")
def matrix_rate(material: Material) -> Measurement:
    """bf16 matrix product of 8192² random numbers."""
    return Measurement(_card(material.compute.device).flops / 1e12)


@stage("gpu-bandwidth", "gpu", "GB/s", device="cuda")
def bandwidth(material: Material) -> Measurement:
    """Copy of 1 GiB within the card's memory, read plus written."""
    return Measurement(_card(material.compute.device).bandwidth / 1e9)


@stage("gpu-unet", "gpu", "images/s", goal=Goal(2_500, unit="images/s"), device="cuda")
def classic_unet(material: Material) -> Measurement:
    """Training the base-64 U-Net at 240², against steps on one batch already there."""
    return _train(material, CLASSIC, 240)


@stage("gpu-resnet34", "gpu", "images/s", goal=Goal(5_000, unit="images/s"), device="cuda")
def resnet34_unet(material: Material) -> Measurement:
    """Training smp-unet on resnet34 at 256², against steps on one batch already there."""
    return _train(material, RESNET34, 256)


@stage("gpu-compile", "gpu", "images/s", goal=Goal(1), device="cuda")
def compiling(material: Material) -> Measurement:
    """Steps of the base-64 U-Net at 240², compiled against eager."""
    return compare_compiled(_trainer(material, CLASSIC, 240), material.scale.rounds)


@dataclass(frozen=True)
class Step:
    """Seconds that each part of a training step would take if nothing else were there."""

    parts: Mapping[str, float]
    measured: float
    eager_memory: float
    """Seconds for what the operators of an eager step read and write; one that is compiled
    moves less, nobody knows how much: it limits nothing."""

    @property
    def limit(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in self.parts.items())
        return (
            f"limited by {self.limit}; ms a step: {parts}, measured {1e3 * self.measured:.1f}; "
            f"memory traffic, if it were eager, {1e3 * self.eager_memory:.1f}"
        )


def measure_training(trainer: Trainer, card: Card, rounds: int) -> Measurement:
    """Compare epochs as shipped, without validation, with the same steps on one batch.

    Args:
        trainer: on its device.
        card: the device's limits.
        rounds: of measuring.
    """
    batch = next(iter(trainer.batches.epoch(0)))
    epoch, one_batch = partial(_epoch, trainer), partial(_steps, trainer, batch)
    seconds = in_turn({"epoch": epoch, "one batch": one_batch}, rounds)
    measured = compare_rates(trainer.loader.samples, seconds["epoch"], seconds["one batch"])
    step = analyse_step(trainer, batch, card, len(batch.rows) / measured.ours)
    share = step.parts["matrix units"] / step.measured
    return replace(measured, note=f"{share:.0%} of the card's bf16 rate; {step}")


def analyse_step(trainer: Trainer, batch: TensorBatch, card: Card, measured: float) -> Step:
    """Estimate what a step asks of each part of the machine, in seconds."""
    device, hw = trainer.compute.device, (batch.images.shape[2], batch.images.shape[3])
    gflops = 3 * len(batch.rows) * gflops_per_image(trainer.network, trainer.channels, hw)
    # Each batch is dropped at once: an epoch of them would fill the card.
    epoch_s = seconds_of(lambda: run_through(trainer.batches.epoch(0)), device, repeats=1)
    parts = {
        "matrix units": 1e9 * gflops / card.flops,
        "launching": launch_seconds(lambda: train_step(trainer, batch), device),
        "batches": epoch_s / trainer.loader.batches,
    }
    return Step(parts, measured, step_bytes(trainer, batch) / card.bandwidth)


def step_bytes(trainer: Trainer, batch: TensorBatch) -> int:
    """Bytes that the operators of an eager step read and write."""
    shipped, trainer.compiled = trainer.compiled, None
    with Traffic() as traffic:
        train_step(trainer, batch)
    trainer.compiled = shipped
    return int(traffic.bytes)


def compare_compiled(trainer: Trainer, rounds: int) -> Measurement:
    """Compare compiled with eager steps on one batch."""
    batch = next(iter(trainer.batches.epoch(0)))

    def run(forward: Any) -> None:
        trainer.compiled = forward
        _steps(trainer, batch)

    ways = {"ours": partial(run, compiled(trainer.network)), "eager": partial(run, None)}
    seconds = in_turn(ways, rounds)
    count = trainer.loader.batches * len(batch.rows)
    return compare_rates(count, seconds["ours"], seconds["eager"])


def _epoch(trainer: Trainer) -> None:
    train_epoch(trainer)
    wait(trainer.compute.device)


def _steps(trainer: Trainer, batch: TensorBatch) -> None:
    for _ in range(trainer.loader.batches):
        train_step(trainer, batch)
    wait(trainer.compute.device)


def _train(material: Material, model: Mapping[str, Any], side: int) -> Measurement:
    trainer, card = _trainer(material, model, side), _card(material.compute.device)
    return measure_training(trainer, card, material.scale.rounds)


def _trainer(material: Material, model: Mapping[str, Any], side: int) -> Trainer:
    config = material.config(
        {
            "data": {"image_size": side, "crop": "none", "context": 0},
            "model": model,
            "train": {
                "batch_size": BATCH,
                "samples_per_epoch": SAMPLES_FACTOR * material.scale.samples,
                "compile": True,
            },
        }
    )
    data = open_data(config)
    return Trainer(config, data.cache, data.split.train, material.compute)


@cache
def _card(device: torch.device) -> Card:
    return measure_card(device)

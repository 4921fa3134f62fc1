"""The GPU's stages on torch's CPU device: sums right, analysis complete; no speed is asked."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.card import Card, Traffic, launch_seconds, measure_card, seconds_of
from benchmarks.material import Material, Scale
from benchmarks.run import Row
from benchmarks.stage import STAGES, Measurement
from benchmarks.stages.gpu import (
    BATCH,
    CLASSIC,
    RESNET34,
    Step,
    _trainer,
    analyse_step,
    measure_training,
    step_bytes,
)
from seglab.core.config import RunConfig
from seglab.learning.batches import TensorBatch
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer
from seglab.models import count_parameters
from seglab.studies.data import open_data

CPU = torch.device("cpu")


@pytest.fixture
def trainer(small_config: Callable[..., RunConfig]) -> Trainer:
    config = small_config()
    data = open_data(config)
    return Trainer(config, data.cache, data.split.train, choose_compute(config.train))


def test_traffic_counts_what_operators_read_and_write() -> None:
    x, weight = torch.rand(8, 100), torch.rand(50, 100)
    with Traffic() as traffic:
        y = x.relu()
    assert traffic.bytes == 2 * x.nbytes
    with Traffic() as traffic:
        z = y @ weight.T
    assert traffic.bytes == y.nbytes + weight.nbytes + z.nbytes
    with Traffic() as traffic:
        z.view(-1)[3:].unsqueeze(0).detach()
    assert traffic.bytes == 0


def test_a_step_moves_at_least_weights_gradients_and_moments(trainer: Trainer) -> None:
    batch = next(iter(trainer.batches.epoch(0)))
    parameters = 4 * count_parameters(trainer.network)
    first = step_bytes(trainer, batch)
    # The fused AdamW reads a parameter, its gradient and two moments; all but the gradient
    # are written. Images go in once at least.
    assert first > 7 * parameters + batch.images.nbytes
    larger = next(iter(trainer.batches.epoch(1)))
    assert step_bytes(trainer, larger) == pytest.approx(step_bytes(trainer, larger))


def test_the_limits_of_a_card_are_rates() -> None:
    card = measure_card(CPU, side=64, copied=2**20)
    assert 1e6 < card.flops < 1e16
    assert 1e6 < card.bandwidth < 1e15


def test_seconds_are_those_of_one_call() -> None:
    calls = []
    assert seconds_of(lambda: calls.append(1), CPU, repeats=4) < 1
    assert len(calls) == 6 * 4
    assert launch_seconds(lambda: calls.append(1), CPU) < 1


def test_the_longest_part_limits() -> None:
    parts = {"matrix units": 2e-3, "launching": 5e-3, "batches": 1e-3}
    step = Step(parts, measured=6e-3, eager_memory=9e-3)
    assert step.limit == "launching"
    assert str(step).startswith("limited by launching; ms a step: matrix units 2.0, launching 5.0")
    assert str(step).endswith("measured 6.0; memory traffic, if it were eager, 9.0")


@pytest.mark.parametrize(("name", "wanted"), [("gpu-unet", 2_500), ("gpu-resnet34", 5_000)])
def test_images_a_second_are_judged_however_they_compare(name: str, wanted: float) -> None:
    slow, fast = (Measurement(ours, ours, 1.0) for ours in (100.0, wanted))
    assert not Row(STAGES[name], slow).met
    assert Row(STAGES[name], fast).met
    assert Row(STAGES[name], slow).to_json()["target"] == wanted


def test_batches_are_not_kept_while_they_are_timed(trainer: Trainer) -> None:
    alive, most = weakref.WeakSet(), 0
    epoch = trainer.batches.epoch

    def watched(number: int) -> Iterator[TensorBatch]:
        nonlocal most
        for batch in epoch(number):
            alive.add(batch.images)
            most = max(most, len(alive))
            yield batch

    batch = next(iter(epoch(0)))
    trainer.batches.epoch = watched  # type: ignore[method-assign]
    analyse_step(trainer, batch, Card(1e12, 1e11), measured=1.0)
    assert 0 < most < trainer.loader.batches


def test_training_is_measured_with_its_shares(trainer: Trainer) -> None:
    measured = measure_training(trainer, Card(1e12, 1e11), rounds=1)
    assert 0 < measured.ours < math.inf
    assert measured.ratio is not None
    for part in ("of the card's bf16 rate", "limited by", "batches"):
        assert part in measured.note


@pytest.mark.parametrize(
    ("model", "side", "millions"), [(CLASSIC, 240, 31.0), (RESNET34, 256, 24.4)]
)
def test_the_networks_are_those_of_the_goals(
    material: Material, model: dict[str, object], side: int, millions: float
) -> None:
    trainer = _trainer(material, model, side)
    assert trainer.cache.shape == (side, side)
    assert trainer.config.train.batch_size == BATCH
    assert count_parameters(trainer.network) / 1e6 == pytest.approx(millions, rel=0.01)


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.group == "gpu"])
def test_every_stage_runs_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    scale = Scale(patients=8, size=64, slices=8, samples=16, rounds=1)
    with Material("cuda", scale=scale) as material:
        assert 0 < STAGES[name].measure(material).ours < math.inf

"""What only a GPU can show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from seglab.core.registry import LOSSES
from seglab.data.open import StudyData
from seglab.learning import batches as module
from seglab.learning.training import Trainer, compiled, fit, train_step
from tests.learning.trainers import Build, trainer_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def trainer_on(build: Build, device: str, **overrides: object) -> tuple[Trainer, StudyData]:
    return trainer_of(build(**{"train": {"device": device}, **overrides}))


def test_without_a_flag_the_gpu_does_everything(small_config: Build) -> None:
    trainer, data = trainer_on(small_config, "auto", optim={"name": "adamw"})
    results = list(fit(trainer, data.split.val))
    assert trainer.batches.resident is not None
    assert trainer.batches.augmented_on == "cuda"
    assert trainer.optimizer.defaults["fused"]
    assert all(p.is_cuda for p in trainer.network.parameters())
    assert results[-1]["train/loss"] < results[0]["train/loss"]


def test_slices_that_do_not_fit_stay_with_the_host(
    small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_SHARE", 1e-9)
    trainer, data = trainer_on(small_config, "cuda")
    next(fit(trainer, data.split.val))
    assert trainer.batches.resident is None


@pytest.mark.parametrize("loss", [entry.name for entry in LOSSES])
@pytest.mark.parametrize("is_resident", [True, False])
def test_no_step_waits_for_the_gpu(small_config: Build, loss: str, is_resident: bool) -> None:
    trainer, _ = trainer_on(small_config, "cuda", loss={"name": loss})
    batches = trainer.batches
    if not is_resident:
        batches.resident = None
    for batch in batches.epoch(0):  # cudnn tries its algorithms, the optimizer makes its state
        train_step(trainer, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in enumerate(trainer.loader.split(1)):
            train_step(trainer, batches._batch(1, step))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "name", ["none", "flips", "geometric", "tone", "blur", "bias_field", "low_resolution"]
)
@pytest.mark.parametrize("context", [0, 1])
def test_batches_equal_those_made_by_torch_on_the_processor(
    small_config: Build, name: str, context: int
) -> None:
    overrides = {"augment": {"name": name}, "data": {"context": context}}
    there, _ = trainer_on(small_config, "cuda", **overrides)
    here, _ = trainer_on(small_config, "cpu", **overrides)
    for ours, theirs in zip(there.batches.epoch(0), here.batches.epoch(0), strict=True):
        np.testing.assert_array_equal(ours.rows, theirs.rows)
        difference = (ours.images.cpu() - theirs.images).abs()
        assert float(difference.mean()) < 0.005  # a grey level is 0.016
        assert float((ours.masks.cpu() != theirs.masks).float().mean()) < 0.005


def test_a_resumed_run_draws_what_an_unbroken_one_does(small_config: Build, tmp_path: Path) -> None:
    trainer, _ = trainer_on(small_config, "cuda")
    trainer.save(tmp_path)
    drawn = torch.rand(5, device="cuda")
    assert trainer.resume(tmp_path)
    assert torch.equal(torch.rand(5, device="cuda"), drawn)


def test_noise_repeats_from_the_seed(small_config: Build) -> None:
    overrides = {"augment": {"name": "noise", "p": 1.0}}
    (one, _), (other, _) = (trainer_on(small_config, "cuda", **overrides) for _ in range(2))
    for ours, theirs in zip(one.batches.epoch(3), other.batches.epoch(3), strict=True):
        assert torch.equal(ours.images, theirs.images)


def test_compiled_and_eager_agree(small_config: Build) -> None:
    trainer, _ = trainer_on(small_config, "cuda")
    batch = next(iter(trainer.batches.epoch(0)))
    trainer.network.eval()
    found = compiled(trainer.network)(batch.images)
    torch.testing.assert_close(found, trainer.network(batch.images), rtol=1e-2, atol=1e-2)

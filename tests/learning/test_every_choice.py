"""Every network, loss and augmentation takes one real training step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.core.registry import AUGMENTATIONS, LOSSES, MODELS
from seglab.data.open import StudyData, open_data
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer, set_rate, train_step

Build = Callable[..., RunConfig]
SLOW = [pytest.param(e.name, marks=pytest.mark.slow) for e in MODELS if e.name != "unet"]


def trainer_of(config: RunConfig) -> Trainer:
    data: StudyData = open_data(config)
    return Trainer(config, data.cache, data.split.train, choose_compute(config.train))


def take_a_step(config: RunConfig) -> None:
    """The loss and all gradients are finite, the logits have the mask's shape, weights move."""
    trainer = trainer_of(config)
    trainer.network.train()
    set_rate(trainer, 0)
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    batch = next(trainer.batches.epoch(0))
    assert trainer.network(batch.images).shape == batch.masks.shape
    loss = train_step(trainer, batch)
    assert loss.isfinite()
    moved = 0
    for name, value in trainer.network.named_parameters():
        assert value.grad is None or value.grad.isfinite().all(), name
        assert value.isfinite().all(), name
        moved += not torch.equal(value, before[name])
    assert moved > len(before) / 2


@pytest.mark.parametrize("name", [*SLOW, "unet"])
def test_network(name: str, small_config: Build) -> None:
    small = {"base_channels": 4, "depth": 3} if name == "unet" else {}
    take_a_step(small_config(model={"name": name, **small}, train={"batch_size": 2}))


@pytest.mark.parametrize("name", [entry.name for entry in LOSSES])
def test_loss(name: str, small_config: Build) -> None:
    take_a_step(small_config(loss=name))


@pytest.mark.parametrize("name", [entry.name for entry in AUGMENTATIONS])
def test_augmentation(name: str, small_config: Build) -> None:
    options = {"transforms": [{"GridDistortion": {"p": 1.0}}]} if name == "albumentations" else {}
    take_a_step(small_config(augment={"name": name, **options}))


def test_one_image_a_batch_is_refused_before_the_first_step(small_config: Build) -> None:
    upernet = {"name": "smp-upernet"}
    for train in ({"batch_size": 1}, {"batch_size": 4, "samples_per_epoch": 1}):
        with pytest.raises(UserError, match=r"train\.batch_size: model 'smp-upernet'"):
            trainer_of(small_config(model=upernet, train=train))
    take_a_step(small_config(train={"batch_size": 1}))

"""On tensors that only pretend to be on a GPU: no device is mixed with another, no value read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import seglab.losses  # noqa: F401  (registers)
from seglab.core.registry import AUGMENTATIONS, LOSSES
from seglab.learning.augment.translate import translate
from seglab.learning.device import network_input

GPU = torch.device("cuda", 0)


def test_a_value_that_is_read_is_noticed() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        float(torch.empty(3, device=GPU).sum())


@pytest.mark.parametrize("name", ["default", "intensity", "flips", "geometric"])
def test_augmentation_stays_on_the_device(name: str) -> None:
    stream = np.random.default_rng(0)
    with FakeTensorMode():
        slices = torch.empty(64, 3, 64, 48, device=GPU), torch.empty(64, 1, 64, 48, device=GPU)
        for transform in translate(AUGMENTATIONS.build(name, {}, 0), (64, 48), GPU):
            drawn = transform.draw(stream, 64)
            assert drawn is not None
            params = {key: torch.empty(value.shape, device=GPU) for key, value in drawn.items()}
            slices = transform.apply(slices, params, None)  # no GPU, no generator of its own
        images = network_input(slices[0])
    assert images.device == slices[1].device == GPU
    assert images.shape == (64, 3, 64, 48)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", sorted({entry.name for entry in LOSSES} - {"explodes"}))
def test_losses_stay_on_the_device(name: str) -> None:
    with FakeTensorMode():
        logits, mask = (torch.empty(4, 1, 32, 24, device=GPU) for _ in range(2))
        assert LOSSES.build(name, {})(logits, mask).device == GPU

"""On tensors that only pretend to be on a GPU: nothing mixes devices or waits for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import seglab.losses  # noqa: F401  (registers)
from seglab.core.registry import AUGMENTATIONS, LOSSES
from seglab.learning.augment.translate import translate
from seglab.learning.device import network_input

GPU = torch.device("cuda", 0)


class Uploads(TorchDispatchMode):
    """Lists the operations that read the processor's memory and write the GPU's."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        read = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        written = {t.device.type for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        if "cpu" in read and "cuda" in written:
            self.found.append(func.overloadpacket.__name__)
        return out


def test_a_value_that_is_read_is_noticed() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        float(torch.empty(3, device=GPU).sum())


def test_an_upload_is_noticed() -> None:
    with FakeTensorMode(), Uploads() as uploads:
        there = torch.empty(3, device=GPU)
        there.new_tensor(1.0)
        there[:2] = torch.ones(2)
        there.new_full((), 1.0) + there * 2
    assert uploads.found == ["_to_copy", "copy_"]


@pytest.mark.parametrize("name", ["default", "intensity", "flips", "geometric"])
def test_augmentation_stays_on_the_device(name: str) -> None:
    stream = np.random.default_rng(0)
    with FakeTensorMode():
        slices = torch.empty(64, 3, 64, 48, device=GPU), torch.empty(64, 1, 64, 48, device=GPU)
        transforms = translate(AUGMENTATIONS.build(name, {}, 0), (64, 48), GPU)
        with Uploads() as uploads:
            for transform in transforms:
                drawn = transform.draw(stream, 64)
                assert drawn is not None
                params = {key: torch.empty(value.shape, device=GPU) for key, value in drawn.items()}
                slices = transform.apply(slices, params, None)  # no GPU, no generator of its own
            images = network_input(slices[0])
    assert uploads.found == []
    assert images.device == slices[1].device == GPU
    assert images.shape == (64, 3, 64, 48)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", sorted({entry.name for entry in LOSSES} - {"explodes"}))
def test_losses_stay_on_the_device(name: str) -> None:
    with FakeTensorMode(), Uploads() as uploads:
        logits, mask = (torch.empty(4, 1, 32, 24, device=GPU) for _ in range(2))
        assert LOSSES.build(name, {})(logits, mask).device == GPU
    assert uploads.found == []

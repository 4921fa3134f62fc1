"""Applies a pipeline to a batch on the device, repeatable from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seglab.learning.augment.transform import DeviceTransform, Params, Slices
from seglab.learning.device import to_device


class DeviceAugmenter:
    """Augments batches so that (seed, key) and the batch's size decide what happens.

    Parameters are drawn on the processor, the same for every device; only the noise of
    single pixels comes from the device's own generator. An instance holds that
    generator's state: use it from one thread.

    Args:
        transforms: as ``translate`` builds them.
        seed: of the run, >= 0.
        device: where the batches are.
    """

    def __init__(
        self, transforms: Sequence[DeviceTransform], seed: int, device: torch.device
    ) -> None:
        self.transforms = tuple(transforms)
        self.seed, self.device = seed, device
        self._generator = torch.Generator(device)

    def __call__(self, slices: Slices, key: Sequence[int]) -> Slices:
        """Augment a batch; ``key`` are integers >= 0 that name it, such as epoch and step."""
        stream = np.random.default_rng([self.seed, *key, 2])
        self._generator.manual_seed(int(stream.integers(2**63)))
        drawn = [transform.draw(stream, len(slices[0])) for transform in self.transforms]
        for transform, params in zip(self.transforms, self._move(drawn), strict=True):
            if params is not None:
                slices = transform.apply(slices, params, self._generator)
        return slices

    def _move(self, drawn: Sequence[Params | None]) -> list[dict[str, torch.Tensor] | None]:
        """Copy everything drawn for a batch to the device at once."""
        arrays = [array for params in drawn if params for array in params.values()]
        if not arrays:
            return [None] * len(drawn)
        flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
        moved = to_device(flat, self.device)
        parts = iter(torch.split(moved, [array.size for array in arrays]))
        views: list[dict[str, torch.Tensor] | None] = []
        for params in drawn:
            named = (params or {}).items()
            views.append({name: next(parts).view(array.shape) for name, array in named} or None)
        return views

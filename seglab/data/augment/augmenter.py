"""Applies a pipeline to a batch, each sample from its own random stream."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from seglab.data.augment.transform import Transform


class Augmenter:
    """Augments samples so that (seed, key) alone decides what happens to each.

    The result does not depend on which other samples are in the batch, on their
    order, or on how many workers share the work. An instance holds the state of
    the stream in use: give each thread its own (copies and pickles are independent).

    Args:
        transforms: a pipeline as built by ``AUGMENTATIONS``.
        seed: of the run, >= 0.
    """

    def __init__(self, transforms: Sequence[Transform], seed: int) -> None:
        self.transforms = tuple(transforms)
        self.seed = seed
        self._py_random = random.Random()  # seeding one again is cheaper than making one

    def __call__(
        self, images: np.ndarray, masks: np.ndarray, keys: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment a batch.

        Args:
            images: (B, H, W, C) uint8, 0 where there is no brain; not changed.
            masks: (B, H, W) uint8 in {0, 1}; not changed.
            keys: B integers >= 0, one per draw of a sample (e.g. epoch · N + row).

        Returns:
            Arrays of the same shapes and dtypes; the inputs themselves for an empty pipeline.
        """
        if not self.transforms:
            return images, masks
        new_images, new_masks = np.empty_like(images), np.empty_like(masks)
        for i, key in enumerate(keys):
            self._start_stream(int(key))
            sample = {"image": images[i], "mask": masks[i]}
            for transform in self.transforms:
                sample = transform(**sample)
            new_images[i], new_masks[i] = sample["image"], sample["mask"]
        return new_images, new_masks

    def _start_stream(self, key: int) -> None:
        # Setting the generators costs a fifth of Compose.set_random_seed.
        generator = np.random.default_rng([self.seed, key])
        self._py_random.seed(int(generator.integers(2**63)))
        for transform in self.transforms:
            transform.set_random_state(generator, self._py_random)

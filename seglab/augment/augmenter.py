"""Applies a pipeline to a batch, each sample from its own random stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from seglab.augment.named import Named, UInt8
from seglab.augment.transform import Frame, Geometric, Intensity, Params, Transform, on_device

Streams = Sequence[np.random.Generator]


def sample_streams(seed: int, epoch: int, first: int, count: int) -> list[np.random.Generator]:
    """Make the streams of ``count`` samples of an epoch: (seed, epoch, index) alone decides."""
    indices = range(first, first + count)
    return [np.random.default_rng([seed, epoch, index, 2]) for index in indices]


class Augmenter:
    """A pipeline, ready for batches; any thread may use it.

    What happens to a sample depends on its stream alone: neither on the other samples of its
    batch nor on the number of threads.

    Args:
        pipeline: as a builder of ``AUGMENTATIONS`` returns it; transforms of albumentations
            come first, wherever they stand in it.
        frame: of the slices.
    """

    def __init__(self, pipeline: Sequence[Transform | Named], frame: Frame) -> None:
        self.frame = frame
        self.named = [each for each in pipeline if isinstance(each, Named)]
        self.transforms = [each for each in pipeline if isinstance(each, Transform)]

    def on_host(self, images: UInt8, masks: UInt8, streams: Streams) -> tuple[UInt8, UInt8]:
        """Apply those of albumentations to copies of images (B,H,W,C) and masks (B,H,W)."""
        images, masks = images.copy(), masks.copy()
        for i, stream in enumerate(streams):
            for transform in self.named:
                images[i], masks[i] = transform(images[i], masks[i], stream)
        return images, masks

    def __call__(
        self, images: torch.Tensor, masks: torch.Tensor, streams: Streams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply all else to images (B,C,H,W) and masks (B,1,H,W), which may be written to."""
        images = images.contiguous()
        by_modality = images.view(-1, self.frame.neighbours, *images.shape[2:])
        for transform in self.transforms:
            copies = len(by_modality) // len(images) if isinstance(transform, Intensity) else 1
            numbers, params = _draw(transform, streams, copies)
            if len(numbers) == 0:
                continue
            rows = on_device(numbers, images)
            if isinstance(transform, Intensity):
                by_modality[rows] = transform.apply(by_modality[rows], params)
            elif isinstance(transform, Geometric):
                images[rows], masks[rows] = transform.apply(images[rows], masks[rows], params)
        return images, masks


def _draw(transform: Transform, streams: Streams, copies: int) -> tuple[NDArray[np.int64], Params]:
    """Draw ``copies`` times for each sample: which draws change anything, and how."""
    numbers: list[int] = []
    drawn: list[Params] = []
    for number in range(len(streams) * copies):
        stream = streams[number // copies]
        params = transform.draw(stream) if stream.random() < transform.p else None
        if params is not None:
            numbers.append(number)
            drawn.append(params)
    names = drawn[0].keys() if drawn else ()
    return np.array(numbers), {name: np.stack([each[name] for each in drawn]) for name in names}

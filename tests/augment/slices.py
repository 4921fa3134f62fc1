"""Slices to augment, and a way to do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from seglab.augment.transform import Augmenter, Frame, sample_streams
from seglab.core.registry import AUGMENTATIONS

Slices = tuple[torch.Tensor, torch.Tensor]


def frame(hw: tuple[int, int] = (64, 48), pixel_mm: float = 2.5, neighbours: int = 1) -> Frame:
    return Frame(hw, pixel_mm, mirror_axis=0, neighbours=neighbours)


def brains(count: int, hw: tuple[int, int] = (64, 48), channels: int = 1) -> Slices:
    """Textured ellipses on 0, each with an off-centre lesion as its mask."""
    stream, (height, width) = np.random.default_rng(0), hw
    y, x = np.mgrid[:height, :width]
    inside = np.hypot((y - height / 2) / (0.4 * height), (x - width / 2) / (0.4 * width)) < 1
    images = stream.integers(60, 200, (count, channels, height, width)) * inside
    lesion = np.hypot(y - height * 0.4, x - width * 0.6) < 0.15 * height
    masks = np.broadcast_to(lesion, (count, 1, height, width))
    return torch.from_numpy(images).float(), torch.from_numpy(masks.copy()).float()


def pipeline(name: str, given: Frame, **options: object) -> Any:
    """A named pipeline; what has a probability is certain."""
    if "p" in AUGMENTATIONS[name].options.model_fields:
        options = {"p": 1.0, **options}
    return AUGMENTATIONS.build(name, options, given)


def augmenter(name: str, given: Frame, **options: object) -> Augmenter:
    return Augmenter(pipeline(name, given, **options), given)


def apply(augment: Augmenter, slices: Slices, seed: int = 3, first: int = 0) -> Slices:
    """Augment copies of some slices, on the host too where the pipeline has such transforms."""
    images, masks = (each.clone() for each in slices)
    streams = sample_streams(seed, 0, first, len(images))
    if augment.named:
        arrays = images.permute(0, 2, 3, 1).byte().numpy(), masks[:, 0].byte().numpy()
        new_images, new_masks = augment.on_host(*arrays, streams)
        images = torch.from_numpy(new_images).permute(0, 3, 1, 2).float()
        masks = torch.from_numpy(new_masks)[:, None].float()
    return augment(images, masks, streams)


def draws(name: str, given: Frame, count: int, **options: object) -> dict[str, np.ndarray]:
    """Draw parameters so many times, the probability aside."""
    (transform,) = pipeline(name, given, **options)
    drawn = [dict(transform.draw(np.random.default_rng(i)) or {}) for i in range(count)]
    return {key: np.stack([each[key] for each in drawn]) for key in drawn[0]}

"""What a pipeline is made of: transforms that draw in one step and apply in another.

Images are (B,C,H,W) float32 in whole grey levels, 0 for background and 1 to 255 for brain, all
neighbours of one modality before those of the next; masks (B,1,H,W) float32 in {0,1}, or shares
that are tumour in 255ths. Masks are moved, never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

UInt8 = NDArray[np.uint8]
Streams = Sequence[np.random.Generator]
Params = Mapping[str, NDArray[Any]]
"""Drawn numbers by name; those of a batch have a first axis (n) for its draws."""
OnHost = Callable[[UInt8, UInt8, np.random.Generator], tuple[UInt8, UInt8]]
"""A transform of image (H,W,C) and mask (H,W) that runs on the processor only."""

FRAME_MM = 240.0
"""Side of the frame where no file tells it: that of BraTS. Sizes in mm are then shares of it."""


@dataclass(frozen=True)
class Frame:
    """What a pipeline has to know about the slices."""

    hw: tuple[int, int]
    pixel_mm: float
    mirror_axis: int | None = 1
    """Array axis (0 rows, 1 columns) that runs from the patient's left to right; None: neither."""
    neighbours: int = 1  # channels of one modality: a slice with its neighbours


@dataclass(frozen=True)
class Transform:
    """Draws on the processor, for each sample with probability ``p``; applies on any device."""

    p: float
    draw: Callable[[np.random.Generator], Params | None]
    """Parameters of one sample; None leaves it as it is."""
    limits: str = field(kw_only=True)
    """How far it goes, for the report."""


@dataclass(frozen=True)
class Geometric(Transform):
    """Moves image and mask together."""

    apply: Callable[[Tensor, Tensor, Params], tuple[Tensor, Tensor]]
    """Move images (n,C,H,W) and masks (n,1,H,W), each by its own parameters."""


@dataclass(frozen=True)
class Intensity(Transform):
    """Changes grey levels, drawn anew for each modality; its neighbouring slices change alike."""

    apply: Callable[[Tensor, Params], Tensor]
    """Change images (n,K,H,W), K neighbours of one modality, each by its own parameters."""


def in_share(limits: str, p: float) -> str:
    """Add to the limits of a change the share of slices that get it, if not all do."""
    return limits if p == 1 else f"{limits} ({100 * p:g} %)"


def sample_streams(seed: int, epoch: int, first: int, count: int) -> list[np.random.Generator]:
    """Make the streams of ``count`` samples of an epoch; only (seed, epoch, index) decides."""
    indices = range(first, first + count)
    return [np.random.default_rng([seed, epoch, index, 2]) for index in indices]


class Augmenter:
    """A pipeline, ready for batches; any thread may use it.

    What happens to a sample depends only on its stream. Transforms of albumentations come first.
    """

    def __init__(self, pipeline: Sequence[Transform | OnHost], frame: Frame) -> None:
        self.frame = frame
        self.named = [each for each in pipeline if not isinstance(each, Transform)]
        self.transforms = [each for each in pipeline if isinstance(each, Transform)]

    def on_host(self, images: UInt8, masks: UInt8, streams: Streams) -> tuple[UInt8, UInt8]:
        """Apply those of albumentations to copies of images (B,H,W,C) and masks (B,H,W)."""
        images, masks = images.copy(), masks.copy()
        for i, stream in enumerate(streams):
            for transform in self.named:
                images[i], masks[i] = transform(images[i], masks[i], stream)
        return images, masks

    def __call__(self, images: Tensor, masks: Tensor, streams: Streams) -> tuple[Tensor, Tensor]:
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


def on_device(values: NDArray[Any], images: Tensor) -> Tensor:
    """Copy drawn numbers to where the images are; nothing waits for a GPU."""
    return torch.from_numpy(values).to(images.device, non_blocking=True)


def enlarge(coarse: Tensor, hw: tuple[int, int], *, between_centres: bool) -> Tensor:
    """Interpolate (n,K,h,w) linearly to (n,K,H,W).

    The outer values lie on the centres of the frame's outer pixels (``between_centres``), or all
    fill its area. The bits of ``functional.interpolate`` depend on the number of threads.
    """
    axes = []
    for side in hw:
        pixels = torch.arange(side, device=coarse.device, dtype=torch.float32)
        axes.append(2 * pixels / (side - 1) - 1 if between_centres else (2 * pixels + 1) / side - 1)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)
    every = grid.expand(len(coarse), *grid.shape)
    return functional.grid_sample(
        coarse, every, mode="bilinear", padding_mode="border", align_corners=between_centres
    )

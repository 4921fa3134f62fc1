"""From a pipeline of albumentations transforms to the same pipeline on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import torch

from seglab.data.augment import Transform
from seglab.data.augment.intensity import BiasField, Blur, Noise, Tone
from seglab.data.augment.warp import Warp
from seglab.learning.augment.geometry import DeviceFlip, DeviceWarp
from seglab.learning.augment.intensity import DeviceBiasField, DeviceBlur, DeviceNoise, DeviceTone
from seglab.learning.augment.transform import DeviceTransform

_PLAIN: dict[type, Callable[[Any], DeviceTransform]] = {
    A.VerticalFlip: lambda flip: DeviceFlip(0, flip.p),
    A.HorizontalFlip: lambda flip: DeviceFlip(1, flip.p),
    Tone: DeviceTone,
    Noise: DeviceNoise,
    Blur: DeviceBlur,
    BiasField: DeviceBiasField,
}


class NoDeviceVersion(Exception):
    """A transform is only known to the processor; the message is its name."""


def translate(
    transforms: Sequence[Transform], hw: tuple[int, int], device: torch.device
) -> list[DeviceTransform]:
    """Build the device's version of each transform, for frames of ``hw`` pixels.

    Raises:
        NoDeviceVersion: a transform has none; a subclass may do anything and counts as such.
    """
    return [_translate(transform, hw, device) for transform in transforms]


def _translate(transform: Transform, hw: tuple[int, int], device: torch.device) -> DeviceTransform:
    if type(transform) is Warp:
        return DeviceWarp(transform, hw, device)
    build = _PLAIN.get(type(transform))
    if build is None:
        raise NoDeviceVersion(type(transform).__name__)
    return build(transform)

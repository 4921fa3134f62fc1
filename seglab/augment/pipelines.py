"""The augmentations a YAML can name.

Every builder takes the frame of the slices and returns transforms in the order they are
applied. Geometric sizes are in millimetres, so that they mean the same at any image size.
Masks move by nearest neighbour, what comes from beyond the frame is 0, and the background of
the image stays 0.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Annotated

from pydantic import Field

from seglab.augment.elastic import Elastic
from seglab.augment.geometry import Affine, Flip, Warp
from seglab.augment.intensity import BiasField, Blur, LowResolution, Noise, Tone
from seglab.augment.named import Named, NamedTransforms, build_named
from seglab.augment.transform import Frame, Transform
from seglab.core.registry import AUGMENTATIONS

Probability = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Share = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0, le=3)]
Millimetres = Annotated[float, Field(ge=0, le=100)]
Pipeline = list[Transform]


@AUGMENTATIONS.register("none")
def none(frame: Frame) -> Pipeline:
    """Nothing: every slice as it is in the cache."""
    return []


@AUGMENTATIONS.register("mirror")
def mirror(frame: Frame, *, p: Probability = 0.5) -> Pipeline:
    """The anatomical mirror: left and right swapped."""
    return [Flip(frame.mirror_axis, p)]


@AUGMENTATIONS.register("front_back")
def front_back(frame: Frame, *, p: Probability = 0.5) -> Pipeline:
    """The flip that swaps front and back of the head, which no patient shows."""
    return [Flip(1 - frame.mirror_axis, p)]


@AUGMENTATIONS.register("flips")
def flips(frame: Frame, *, p: Probability = 0.5) -> Pipeline:
    """Both flips, each with its own coin."""
    return [Flip(frame.mirror_axis, p), Flip(1 - frame.mirror_axis, p)]


@AUGMENTATIONS.register("affine")
def affine(
    frame: Frame,
    *,
    rotate_deg: Degrees = 15,
    scale: Share = 0.15,
    shift_mm: Millimetres = 8,
    p: Probability = 0.8,
) -> Pipeline:
    """Rotation, scale and shift in one resampling."""
    return [Warp(frame, Affine(rotate_deg, scale, shift_mm, p), None)]


@AUGMENTATIONS.register("elastic")
def elastic(
    frame: Frame,
    *,
    sd_mm: Millimetres = 4,
    sigma_mm: Annotated[float, Field(ge=2, le=200)] = 24,
    p: Probability = 0.5,
) -> Pipeline:
    """Smooth random displacement: sd_mm its SD along each axis, sigma_mm its smoothness."""
    return [Warp(frame, None, Elastic(sd_mm, sigma_mm, p))]


@AUGMENTATIONS.register("geometric")
def geometric(frame: Frame, *, strength: Strength = 1.0) -> Pipeline:
    """Mirror, affine and elastic; the last two share one resampling."""
    limits = Affine(15 * strength, min(0.15 * strength, 0.9), 8 * strength, p=0.7)
    return [*mirror(frame), Warp(frame, limits, Elastic(4 * strength, 24, p=0.3))]


@AUGMENTATIONS.register("tone")
def tone(
    frame: Frame,
    *,
    brightness: Share = 0.1,
    contrast: Share = 0.2,
    gamma: Annotated[float, Field(ge=1, le=5)] = 1.3,
    p: Probability = 0.5,
) -> Pipeline:
    """Brightness, contrast and gamma of the brain."""
    return [Tone(brightness, contrast, gamma, p)]


@AUGMENTATIONS.register("noise")
def noise(frame: Frame, *, sd: Share = 0.05, p: Probability = 0.5) -> Pipeline:
    """Gaussian noise on the brain, SD as a share of the range."""
    return [Noise(sd, p)]


@AUGMENTATIONS.register("blur")
def blur(frame: Frame, *, sigma_mm: Millimetres = 2.5, p: Probability = 0.5) -> Pipeline:
    """Gaussian blur with an SD of up to sigma_mm."""
    return [Blur(frame, sigma_mm, p)]


@AUGMENTATIONS.register("bias_field")
def bias_field(frame: Frame, *, strength: Strength = 0.15, p: Probability = 0.5) -> Pipeline:
    """Smooth shading across the slice, as of a receive coil."""
    return [BiasField(frame, strength, p)]


@AUGMENTATIONS.register("low_resolution")
def low_resolution(
    frame: Frame, *, pixel_mm: Annotated[float, Field(ge=1, le=20)] = 5, p: Probability = 0.25
) -> Pipeline:
    """A scan with pixels of up to pixel_mm, interpolated back."""
    return [LowResolution(frame, pixel_mm, p)]


@AUGMENTATIONS.register("intensity")
def intensity(frame: Frame, *, strength: Strength = 1.0) -> Pipeline:
    """Tone, noise, blur, bias field and low resolution."""
    bias = bias_field(frame, strength=0.15 * strength, p=0.2)
    coarse = low_resolution(frame, pixel_mm=1 + 4 * strength)
    return [*_tone_noise_blur(frame, strength), *bias, *coarse]


@AUGMENTATIONS.register("default")
def default(frame: Frame, *, strength: Strength = 1.0) -> Pipeline:
    """Mirror, affine, elastic, tone, noise and blur; all limits scale with strength."""
    return [*geometric(frame, strength=strength), *_tone_noise_blur(frame, strength)]


@AUGMENTATIONS.register("all")
def everything(frame: Frame, *, strength: Strength = 1.0) -> Pipeline:
    """Default, the other flip, bias field and low resolution."""
    changes = intensity(frame, strength=strength)
    return [*front_back(frame), *geometric(frame, strength=strength), *changes]


@AUGMENTATIONS.register("albumentations")
def albumentations(frame: Frame, *, transforms: NamedTransforms) -> list[Named]:
    """Transforms of albumentations by name, e.g. [{GridDistortion: {num_steps: 5, p: 0.3}}]."""
    return build_named(transforms)


@AUGMENTATIONS.register("grid")
def grid(
    frame: Frame,
    *,
    steps: Annotated[int, Field(ge=2, le=32)] = 5,
    limit: Share = 0.2,
    p: Probability = 0.5,
) -> list[Named]:
    """An older name of GridDistortion of albumentations."""
    _remark("augment.name: grid is albumentations' GridDistortion: name it in augment.transforms")
    options = {"num_steps": steps, "distort_limit": [-limit, limit], "p": p}
    return build_named([{"GridDistortion": options}])


def _tone_noise_blur(frame: Frame, strength: float) -> Pipeline:
    contrast = min(0.2 * strength, 0.9)
    levels = tone(frame, brightness=0.1 * strength, contrast=contrast, gamma=1.3**strength, p=0.7)
    grain = noise(frame, sd=0.04 * strength, p=0.2)
    return [*levels, *grain, *blur(frame, sigma_mm=2 * strength, p=0.1)]


@cache
def _remark(line: str) -> None:
    print(line, file=sys.stderr)

"""The moving augmentations that a YAML can name, and those made of several.

Builders take the frame and return transforms in the order they are applied; sizes are millimetres.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from seglab.augment.geometry import Affine, Elastic, flip, warp
from seglab.augment.intensity import (
    Millimetres,
    Probability,
    Share,
    Strength,
    bias_field,
    blur,
    low_resolution,
    noise,
    tone,
)
from seglab.augment.transform import Frame, Transform
from seglab.core.registry import AUGMENTATIONS

Degrees = Annotated[float, Field(ge=0, le=180)]


@AUGMENTATIONS.register("none")
def none(frame: Frame) -> list[Transform]:
    """Nothing: every slice as it is in the cache."""
    return []


@AUGMENTATIONS.register("mirror")
def mirror(frame: Frame, *, p: Probability = 0.5) -> list[Transform]:
    """The anatomical mirror: left and right swapped; nothing in sagittal slices."""
    if frame.mirror_axis is None:
        return []
    return [flip(frame.mirror_axis, p, "left and right swapped")]


@AUGMENTATIONS.register("front_back")
def front_back(frame: Frame, *, p: Probability = 0.5) -> list[Transform]:
    """The flip that swaps front and back of the head (coronal: its top), which no patient shows."""
    axis = 0 if frame.mirror_axis is None else 1 - frame.mirror_axis
    return [flip(axis, p, "front and back swapped")]


@AUGMENTATIONS.register("flips")
def flips(frame: Frame, *, p: Probability = 0.5) -> list[Transform]:
    """Both flips, each with its own probability."""
    return [*mirror(frame, p=p), *front_back(frame, p=p)]


@AUGMENTATIONS.register("affine")
def affine(
    frame: Frame,
    *,
    rotate_deg: Degrees = 15,
    scale: Share = 0.15,
    shift_mm: Millimetres = 8,
    p: Probability = 0.8,
) -> list[Transform]:
    """Rotation, scale and shift in one resampling."""
    return [warp(frame, Affine(rotate_deg, scale, shift_mm, p))]


@AUGMENTATIONS.register("elastic")
def elastic(
    frame: Frame,
    *,
    sd_mm: Millimetres = 4,
    sigma_mm: Annotated[float, Field(ge=2, le=200)] = 24,
    p: Probability = 0.5,
) -> list[Transform]:
    """Smooth random displacement: sd_mm its SD along each axis, sigma_mm its smoothness."""
    return [warp(frame, elastic=Elastic(sd_mm, sigma_mm, p))]


@AUGMENTATIONS.register("geometric")
def geometric(frame: Frame, *, strength: Strength = 1.0) -> list[Transform]:
    """Mirror, affine and elastic; the last two share one resampling."""
    limits = Affine(15 * strength, min(0.15 * strength, 0.9), 8 * strength, p=0.7)
    return [*mirror(frame), warp(frame, limits, Elastic(4 * strength, 24, p=0.3))]


@AUGMENTATIONS.register("intensity")
def intensity(frame: Frame, *, strength: Strength = 1.0) -> list[Transform]:
    """Tone, noise, blur, bias field and low resolution."""
    bias = bias_field(frame, strength=0.15 * strength, p=0.2)
    coarse = low_resolution(frame, pixel_mm=1 + 4 * strength)
    return [*_tone_noise_blur(frame, strength), *bias, *coarse]


@AUGMENTATIONS.register("default")
def default(frame: Frame, *, strength: Strength = 1.0) -> list[Transform]:
    """Mirror, affine, elastic, tone, noise and blur; all limits scale with strength."""
    return [*geometric(frame, strength=strength), *_tone_noise_blur(frame, strength)]


@AUGMENTATIONS.register("other_scanners")
def other_scanners(frame: Frame, *, strength: Strength = 2.0) -> list[Transform]:
    """Geometric as in default; tone, noise, blur, bias field and low resolution at strength."""
    return [*geometric(frame), *intensity(frame, strength=strength)]


@AUGMENTATIONS.register("all")
def everything(frame: Frame, *, strength: Strength = 1.0) -> list[Transform]:
    """Default, the other flip, bias field and low resolution."""
    changes = intensity(frame, strength=strength)
    return [*front_back(frame), *geometric(frame, strength=strength), *changes]


def _tone_noise_blur(frame: Frame, strength: float) -> list[Transform]:
    contrast = min(0.2 * strength, 0.9)
    levels = tone(frame, brightness=0.1 * strength, contrast=contrast, gamma=1.3**strength, p=0.7)
    grain = noise(frame, sd=0.04 * strength, p=0.2)
    return [*levels, *grain, *blur(frame, sigma_mm=2 * strength, p=0.1)]

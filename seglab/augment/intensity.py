"""Grey-level changes that leave the background at 0 and brain pixels at 1 to 255."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from seglab.augment.transform import Frame, Intensity, Params, enlarge, on_device
from seglab.core.registry import AUGMENTATIONS

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0, le=3)]
Millimetres = Annotated[float, Field(ge=0, le=100)]

GREYS = np.linspace(0, 1, 256)
BIAS_NODES = 4  # nodes of the bias field along each side


@AUGMENTATIONS.register("tone")
def tone(
    frame: Frame,
    *,
    brightness: Share = 0.1,
    contrast: Share = 0.2,
    gamma: Annotated[float, Field(ge=1, le=5)] = 1.3,
    p: Probability = 0.5,
) -> list[Intensity]:
    """Brightness, contrast and gamma of the brain.

    In one ``table`` (256,) of grey levels, 0 for 0. Brightness shifts by up to this share of the
    range, contrast changes about mid-grey, the exponent is log-uniform in 1/gamma to gamma.
    """

    def draw(stream: np.random.Generator) -> Params:
        shift = stream.uniform(-brightness, brightness)
        factor = 1 + stream.uniform(-contrast, contrast)
        grey = GREYS ** (gamma ** stream.uniform(-1, 1))
        table = np.rint(255 * (factor * (grey - 0.5) + 0.5 + shift)).clip(1, 255)
        table[0] = 0
        return {"table": table.astype(np.float32)}

    def apply(images: Tensor, params: Params) -> Tensor:
        table = on_device(params["table"], images)
        return table.gather(1, images.flatten(1).long()).view(images.shape)

    limits = (
        f"brightness ±{100 * brightness:g} % of the range, contrast ±{100 * contrast:g} %, "
        f"gamma {1 / gamma:.2g} to {gamma:.3g}"
    )
    return [Intensity(p, draw, apply, limits=limits)]


@AUGMENTATIONS.register("noise")
def noise(frame: Frame, *, sd: Share = 0.05, p: Probability = 0.5) -> list[Intensity]:
    """Gaussian noise on the brain, SD as a share of the range.

    Independent in every pixel and channel; its SD is uniform from 0 to ``sd``. CPU and GPU differ.
    """

    def draw(stream: np.random.Generator) -> Params:
        drawn_sd = np.array(255 * stream.uniform(0, sd), np.float32)
        return {"sd": drawn_sd, "seed": np.array(stream.integers(2**63))}

    def apply(images: Tensor, params: Params) -> Tensor:
        generator, grain = torch.Generator(images.device), torch.empty_like(images)
        for plane, seed in zip(grain, params["seed"].tolist(), strict=True):
            plane.normal_(generator=generator.manual_seed(seed))
        grain *= on_device(params["sd"], images).view(-1, 1, 1, 1)
        return within_brain(grain.add_(images), images)

    limits = f"noise of SD up to {100 * sd:g} % of the range"
    return [Intensity(p, draw, apply, limits=limits)]


@AUGMENTATIONS.register("blur")
def blur(frame: Frame, *, sigma_mm: Millimetres = 2.5, p: Probability = 0.5) -> list[Intensity]:
    """Gaussian blur with an SD of up to sigma_mm."""
    # Three SD, and no further than a frame reflects.
    radius = min(math.ceil(3 * sigma_mm / frame.pixel_mm), min(frame.hw) - 1)

    def draw(stream: np.random.Generator) -> Params:
        sigma_px = max(stream.uniform(0, sigma_mm) / frame.pixel_mm, 1e-3)
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
        return {"kernel": (kernel / kernel.sum()).astype(np.float32)}

    def apply(images: Tensor, params: Params) -> Tensor:
        taps, blurred = on_device(params["kernel"], images).unbind(1), images
        for dim, border in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
            padded = functional.pad(blurred, border, mode="reflect")
            # Shifted images: unlike a convolution the same to the bit for any number of threads.
            blurred = torch.zeros_like(images)
            for shift, tap in enumerate(taps):
                blurred += padded.narrow(dim, shift, images.shape[dim]) * tap.view(-1, 1, 1, 1)
        return within_brain(blurred, images)

    limits = f"blur of SD up to {sigma_mm:g} mm"
    return [Intensity(p, draw, apply, limits=limits)]


@AUGMENTATIONS.register("bias_field")
def bias_field(frame: Frame, *, strength: Strength = 0.15, p: Probability = 0.5) -> list[Intensity]:
    """Smooth shading across the slice, as of a receive coil.

    ``strength`` is the SD of the factor's logarithm at its nodes (0.15: about ±15 %).
    """

    def draw(stream: np.random.Generator) -> Params:
        logarithm = strength * stream.standard_normal((BIAS_NODES, BIAS_NODES))
        return {"nodes": np.exp(logarithm).astype(np.float32)}

    def apply(images: Tensor, params: Params) -> Tensor:
        nodes = on_device(params["nodes"], images)[:, None]
        field = functional.interpolate(nodes, list(frame.hw), mode="bicubic")
        return within_brain(images * field, images)

    limits = f"bias field of about ±{100 * strength:g} %"
    return [Intensity(p, draw, apply, limits=limits)]


@AUGMENTATIONS.register("low_resolution")
def low_resolution(
    frame: Frame, *, pixel_mm: Annotated[float, Field(ge=1, le=20)] = 5, p: Probability = 0.25
) -> list[Intensity]:
    """A scan with pixels of up to pixel_mm, interpolated back.

    Drawn uniformly from 1 mm, without effect below the slices' own pixel; Isensee 2021.
    """

    def draw(stream: np.random.Generator) -> Params | None:
        share = frame.pixel_mm / stream.uniform(1, pixel_mm)
        if share >= 1:
            return None
        return {"size": np.array([max(1, round(side * share)) for side in frame.hw])}

    def apply(images: Tensor, params: Params) -> Tensor:
        coarse = []
        for image, size in zip(images, params["size"].tolist(), strict=True):
            small = functional.adaptive_avg_pool2d(image[None], size)
            coarse.append(enlarge(small, frame.hw, between_centres=False))
        return within_brain(torch.cat(coarse), images)

    limits = f"pixels of up to {pixel_mm:g} mm"
    return [Intensity(p, draw, apply, limits=limits)]


def within_brain(changed: Tensor, images: Tensor) -> Tensor:
    """Round to 1 … 255 where ``images`` shows brain, to 0 elsewhere; a scan has no more there."""
    return changed.round_().clamp_(1, 255).mul_(images > 0)

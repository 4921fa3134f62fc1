"""Grey-level changes that leave the background at 0 and brain pixels at 1 to 255."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from seglab.augment.transform import Frame, Intensity, Params, enlarge, on_device, within_brain

GREYS = np.linspace(0, 1, 256)


@dataclass(frozen=True)
class Tone(Intensity):
    """Brightness, contrast and gamma in one table of 256 grey levels."""

    brightness: float
    """Largest shift to either side, as a share of the range."""
    contrast: float
    """Largest relative change of contrast about mid-grey."""
    gamma: float
    """Largest exponent; drawn log-uniformly from 1/gamma to gamma."""
    p: float

    def draw(self, stream: np.random.Generator) -> Params:
        """Draw ``table`` (256,): the new level of each, 0 for 0."""
        shift = stream.uniform(-self.brightness, self.brightness)
        factor = 1 + stream.uniform(-self.contrast, self.contrast)
        grey = GREYS ** (self.gamma ** stream.uniform(-1, 1))
        table = np.rint(255 * (factor * (grey - 0.5) + 0.5 + shift)).clip(1, 255)
        table[0] = 0
        return {"table": table.astype(np.float32)}

    def apply(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Look every pixel up."""
        table = on_device(params["table"], images)
        return table.gather(1, images.flatten(1).long()).view(images.shape)


@dataclass(frozen=True)
class Noise(Intensity):
    """Gaussian noise, independent in every pixel and channel."""

    sd: float
    """Largest standard deviation, as a share of the range; drawn uniformly from 0."""
    p: float

    def draw(self, stream: np.random.Generator) -> Params:
        """Draw ``sd`` in grey levels, and the ``seed`` of the pixels' own numbers."""
        sd = np.array(255 * stream.uniform(0, self.sd), np.float32)
        return {"sd": sd, "seed": np.array(stream.integers(2**63))}

    def apply(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Add noise; CPU and GPU draw other numbers from the same seed."""
        generator, noise = torch.Generator(images.device), torch.empty_like(images)
        for plane, seed in zip(noise, params["seed"].tolist(), strict=True):
            plane.normal_(generator=generator.manual_seed(seed))
        noise *= on_device(params["sd"], images).view(-1, 1, 1, 1)
        return within_brain(noise.add_(images), images)


@dataclass(frozen=True)
class Blur(Intensity):
    """Gaussian blur with an SD drawn uniformly from 0 to ``sigma_mm``."""

    frame: Frame
    sigma_mm: float
    p: float

    @property
    def radius(self) -> int:
        """Pixels that the kernel reaches: three SD, and no further than a frame reflects."""
        return min(math.ceil(3 * self.sigma_mm / self.frame.pixel_mm), min(self.frame.hw) - 1)

    def draw(self, stream: np.random.Generator) -> Params:
        """Draw ``kernel`` (2 · radius + 1,), which sums to 1."""
        sigma_px = max(stream.uniform(0, self.sigma_mm) / self.frame.pixel_mm, 1e-3)
        kernel = np.exp(-0.5 * (np.arange(-self.radius, self.radius + 1) / sigma_px) ** 2)
        return {"kernel": (kernel / kernel.sum()).astype(np.float32)}

    def apply(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Blur along columns, then along rows."""
        taps, radius = on_device(params["kernel"], images), self.radius
        tall = functional.pad(images, (0, 0, radius, radius), mode="reflect")
        blurred = _weighted(tall, taps, dim=2)
        wide = functional.pad(blurred, (radius, radius, 0, 0), mode="reflect")
        return within_brain(_weighted(wide, taps, dim=3), images)


def _weighted(padded: torch.Tensor, taps: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum shifted images: unlike a convolution the same to the bit for any number of threads."""
    length = padded.shape[dim] - taps.shape[1] + 1
    total = torch.zeros_like(padded.narrow(dim, 0, length))
    for shift, tap in enumerate(taps.unbind(1)):
        total += padded.narrow(dim, shift, length) * tap.view(-1, 1, 1, 1)
    return total


@dataclass(frozen=True)
class BiasField(Intensity):
    """Smooth multiplicative shading, as of a receive coil."""

    frame: Frame
    strength: float
    """SD of the field's logarithm at its nodes (0.15: about ±15 %)."""
    p: float
    nodes: int = 4
    """Along each side."""

    def draw(self, stream: np.random.Generator) -> Params:
        """Draw ``nodes`` (nodes, nodes): factors of the grey level."""
        logarithm = self.strength * stream.standard_normal((self.nodes, self.nodes))
        return {"nodes": np.exp(logarithm).astype(np.float32)}

    def apply(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Multiply every channel."""
        nodes = on_device(params["nodes"], images)[:, None]
        field = functional.interpolate(nodes, list(self.frame.hw), mode="bicubic")
        return within_brain(images * field, images)


@dataclass(frozen=True)
class LowResolution(Intensity):
    """A slice as a scan of larger pixels would show it, interpolated back; Isensee 2021."""

    frame: Frame
    pixel_mm: float
    """Largest side of such a pixel, at least 1; drawn uniformly from 1 mm, and without effect
    where it is smaller than the slices' own."""
    p: float

    def draw(self, stream: np.random.Generator) -> Params | None:
        """Draw ``size`` (2,): rows and columns of the coarse slice."""
        share = self.frame.pixel_mm / stream.uniform(1, self.pixel_mm)
        if share >= 1:
            return None
        return {"size": np.array([max(1, round(side * share)) for side in self.frame.hw])}

    def apply(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Average areas, then interpolate linearly."""
        coarse = []
        for image, size in zip(images, params["size"].tolist(), strict=True):
            small = functional.adaptive_avg_pool2d(image[None], size)
            coarse.append(enlarge(small, self.frame.hw, between_centres=False))
        return within_brain(torch.cat(coarse), images)

"""Grey-value changes on the device; they equal those on the processor within one grey level."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from seglab.data.augment.intensity import BiasField, Blur, Noise, Tone
from seglab.learning.augment.transform import Params, Slices, draw_each, each_sample


def within_brain(changed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Round to 1 … 255 where ``images`` shows brain, to 0 elsewhere."""
    return changed.round().clamp(1, 255) * (images > 0)


class DeviceTone:
    """``Tone``: the formula of its table, pixel by pixel."""

    def __init__(self, tone: Tone) -> None:
        self.tone = tone

    def draw(self, stream: np.random.Generator, count: int) -> Params | None:
        """Draw ``tone`` (B,3): shift, factor, exponent."""
        rows = draw_each(stream, count, self.tone.p, self.tone.draw, (0.0, 1.0, 1.0))
        return None if rows is None else {"tone": rows}

    def apply(
        self, slices: Slices, params: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> Slices:
        """Change the images."""
        images, masks = slices
        shift, factor, exponent = (each_sample(column) for column in params["tone"].unbind(1))
        grey = (images / 255) ** exponent
        changed = grey * (255 * factor) + 255 * (0.5 - 0.5 * factor + shift)
        return within_brain(changed, images), masks


class DeviceNoise:
    """``Noise`` with normal numbers themselves instead of 256 quantiles of them."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def draw(self, stream: np.random.Generator, count: int) -> Params | None:
        """Draw ``sd`` (B,), grey levels."""
        rows = draw_each(stream, count, self.noise.p, self.noise.draw, 0.0)
        return None if rows is None else {"sd": rows}

    def apply(
        self, slices: Slices, params: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> Slices:
        """Change the images."""
        images, masks = slices
        normal = torch.randn(images.shape, generator=generator, device=images.device)
        return within_brain(images + normal * each_sample(params["sd"]), images), masks


class DeviceBlur:
    """``Blur`` with the kernels of ``cv2.GaussianBlur``, each sample its own."""

    def __init__(self, blur: Blur) -> None:
        self.blur = blur
        self.radius = _radius(blur.sigma)

    def draw(self, stream: np.random.Generator, count: int) -> Params | None:
        """Draw ``kernel`` (B, 2 · radius + 1), which sums to 1."""
        sigmas = draw_each(stream, count, self.blur.p, self.blur.draw, 0.0)
        if sigmas is None:
            return None
        return {"kernel": np.stack([gaussian(sigma, self.radius) for sigma in sigmas])}

    def apply(
        self, slices: Slices, params: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> Slices:
        """Blur along columns, then along rows; every channel of every sample is a group."""
        (images, masks), radius = slices, self.radius
        planes = images.reshape(1, -1, *images.shape[2:])
        kernels = params["kernel"].repeat_interleave(images.shape[1], dim=0)
        tall = functional.pad(planes, (0, 0, radius, radius), mode="reflect")
        planes = functional.conv2d(tall, kernels[:, None, :, None], groups=len(kernels))
        wide = functional.pad(planes, (radius, radius, 0, 0), mode="reflect")
        planes = functional.conv2d(wide, kernels[:, None, None, :], groups=len(kernels))
        return within_brain(planes.view(images.shape), images), masks


def gaussian(sigma: float, radius: int) -> NDArray[np.float32]:
    """Kernel (2 · radius + 1,) that OpenCV takes for uint8 images; the identity for sigma 0."""
    offsets = np.arange(-radius, radius + 1)
    if sigma == 0:
        kernel = np.equal(offsets, 0)
    else:
        kernel = np.exp(-0.5 * (offsets / sigma) ** 2) * (np.abs(offsets) <= _radius(sigma))
    return np.asarray(kernel / kernel.sum(), np.float32)


def _radius(sigma: float) -> int:
    return (round(6 * float(sigma) + 1) | 1) // 2


class DeviceBiasField:
    """``BiasField``: the same nodes, interpolated by the same cubic."""

    def __init__(self, bias: BiasField) -> None:
        self.bias = bias

    def draw(self, stream: np.random.Generator, count: int) -> Params | None:
        """Draw ``nodes`` (B, nodes, nodes): the field's logarithm."""
        chosen = stream.random(count) < self.bias.p
        if not chosen.any():
            return None
        shape = count, self.bias.nodes, self.bias.nodes
        normal = stream.standard_normal(shape, dtype=np.float32)
        strength = np.float32(self.bias.strength)
        return {"nodes": strength * normal * chosen[:, None, None]}

    def apply(
        self, slices: Slices, params: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> Slices:
        """Multiply every channel."""
        images, masks = slices
        hw = [int(side) for side in images.shape[2:]]
        # OpenCV and torch both take a = -0.75 and repeat the edge.
        fine = functional.interpolate(params["nodes"][:, None], hw, mode="bicubic")
        return within_brain(images * fine.exp(), images), masks

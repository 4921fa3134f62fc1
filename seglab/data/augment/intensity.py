"""Grey-value changes that leave the background at 0 and brain pixels at 1 to 255.

The transforms of albumentations would lift or smear the background, which no
scanner does after brain extraction.
"""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import Any

import albumentations as A
import cv2
import numpy as np

from seglab.data.augment.transform import Uniform

GREYS = np.linspace(0, 1, 256, dtype=np.float32)


def within_brain(changed: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Keep the background of ``image`` at 0 and brain pixels above it; uint8, any shape."""
    kept: np.ndarray = np.maximum(changed.reshape(image.shape), 1) * (image > 0)
    return kept


class Tone(A.ImageOnlyTransform):  # type: ignore[misc]
    """Brightness, contrast and gamma in one table of 256 entries.

    Args:
        brightness: largest shift to either side, as a share of the range.
        contrast: largest relative change of contrast about mid-grey.
        gamma: largest exponent; drawn log-uniformly from 1/gamma to gamma.
        p: probability.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, gamma: float = 1.0, p: float = 0.5
    ) -> None:
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast
        self.gamma = gamma

    def draw(self, uniform: Uniform) -> tuple[float, float, float]:
        """Draw shift (a share of the range), factor about mid-grey, and exponent."""
        shift = uniform(-self.brightness, self.brightness)
        factor = 1 + uniform(-self.contrast, self.contrast)
        return shift, factor, self.gamma ** uniform(-1, 1)

    def get_params(self) -> dict[str, Any]:
        """Draw the table (256,) uint8."""
        shift, factor, exponent = self.draw(self.py_random.uniform)
        grey = GREYS**exponent
        table = np.rint(grey * (255 * factor) + 255 * (0.5 - 0.5 * factor + shift))
        table = table.clip(1, 255).astype(np.uint8)
        table[0] = 0
        return {"table": table}

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Look every pixel up."""
        looked_up: np.ndarray = cv2.LUT(img, params["table"]).reshape(img.shape)
        return looked_up


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """Of 256 equally likely steps: turns random bytes into normal numbers, at unit SD."""
    steps = [NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)]
    quantiles: np.ndarray = np.array(steps) / np.std(steps)
    return quantiles


class Noise(A.ImageOnlyTransform):  # type: ignore[misc]
    """Gaussian noise on brain pixels, independent in every channel.

    Args:
        sd: largest standard deviation, as a share of the range; drawn uniformly from 0.
        p: probability.
    """

    def __init__(self, sd: float = 0.05, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.sd = sd

    def draw(self, uniform: Uniform) -> float:
        """Draw the standard deviation, grey levels of 255."""
        return uniform(0, self.sd) * 255

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the noise, int16 of the image's shape."""
        sd = self.draw(self.py_random.uniform)
        table = np.rint(_normal_quantiles() * sd).astype(np.int16)
        # A byte through a table costs a tenth of a normal number.
        drawn = self.random_generator.bytes(data["image"].size)
        drawn = np.frombuffer(drawn, np.uint8).reshape(data["image"].shape)
        return {"noise": cv2.LUT(drawn, table).reshape(drawn.shape)}

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Add, saturate, restore the background."""
        return within_brain(cv2.add(img, params["noise"], dtype=cv2.CV_8U), img)


class Blur(A.ImageOnlyTransform):  # type: ignore[misc]
    """Gaussian blur.

    Args:
        sigma: largest standard deviation, pixels; drawn uniformly from 0.3.
        p: probability.
    """

    def __init__(self, sigma: float = 1.0, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.sigma = sigma

    def draw(self, uniform: Uniform) -> float:
        """Draw the standard deviation, pixels."""
        return uniform(min(0.3, self.sigma), self.sigma)

    def get_params(self) -> dict[str, Any]:
        """Draw the width."""
        return {"sigma": self.draw(self.py_random.uniform)}

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Blur, restore the background."""
        return within_brain(cv2.GaussianBlur(img, (0, 0), params["sigma"]), img)


class BiasField(A.ImageOnlyTransform):  # type: ignore[misc]
    """Smooth multiplicative shading, as of a receive coil.

    Args:
        strength: SD of the field's logarithm at its nodes (0.15: about ±15 %).
        nodes: nodes of the field along each side, at least 2.
        p: probability.
    """

    def __init__(self, strength: float = 0.15, nodes: int = 4, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.strength = strength
        self.nodes = nodes

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the field (H, W) float32."""
        height, width = params["shape"][:2]
        coarse = self.random_generator.standard_normal((self.nodes, self.nodes), dtype=np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return {"field": np.exp(np.float32(self.strength) * fine)}

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Multiply every channel, saturate."""
        shaded = np.rint(img * params["field"].reshape(*img.shape[:2], *[1] * (img.ndim - 2)))
        return within_brain(np.minimum(shaded, 255).astype(np.uint8), img)

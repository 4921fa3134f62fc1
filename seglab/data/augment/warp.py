"""Geometry in a single resampling: rotation, scale, shift and elastic displacement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets

from seglab.data.augment.displacement import Edges, displacement_field, source_maps
from seglab.data.augment.transform import Uniform

IDENTITY = np.eye(2, 3)
CV_CHANNELS = 4
"""OpenCV warps at most so many channels at once with a constant border."""


@dataclass(frozen=True)
class Affine:
    """Limits of a random rotation, scale and shift; each is drawn uniformly."""

    rotate_deg: float = 0.0
    """Largest rotation to either side."""
    scale: float = 0.0
    """Largest relative change of size: 0.15 draws from 0.85 to 1.15."""
    shift: float = 0.0
    """Largest shift, as a share of the side."""
    p: float = 1.0

    def draw(self, uniform: Uniform, height: int, width: int) -> np.ndarray:
        """Draw a matrix (2, 3) float32 from (x, y, 1) of the output to (x, y) of the source."""
        angle = math.radians(uniform(-self.rotate_deg, self.rotate_deg))
        scale = 1 + uniform(-self.scale, self.scale)
        x, y = (width - 1) / 2, (height - 1) / 2
        new_x = x + uniform(-self.shift, self.shift) * width
        new_y = y + uniform(-self.shift, self.shift) * height
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        rows = [
            [cos, sin, x - cos * new_x - sin * new_y],
            [-sin, cos, y + sin * new_x - cos * new_y],
        ]
        return np.array(rows, np.float32)


@dataclass(frozen=True)
class Elastic:
    """Elastic displacement with the meaning of ``albumentations.ElasticTransform``."""

    alpha: float
    """Strength; far from the edges the displacement has an SD of about alpha / (15 · sigma) px."""
    sigma: float
    """Smoothness, pixels."""
    edges: Edges = "replicate"
    p: float = 1.0


class Warp(A.DualTransform):  # type: ignore[misc]
    """Moves image (bilinear) and mask (nearest neighbour) by one joint map, 0 beyond the frame.

    One resampling blurs the image once and costs half of two.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self, affine: Affine | None = None, elastic: Elastic | None = None, p: float = 1.0
    ) -> None:
        super().__init__(p=p)
        self.affine = affine
        self.elastic = elastic

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw ``matrix`` (2, 3) and the two ``maps`` (H, W); None for what does not apply."""
        height, width = params["shape"][:2]
        matrix = maps = None
        if self.affine is not None and self.py_random.random() < self.affine.p:
            matrix = self.affine.draw(self.py_random.uniform, height, width)
        if self.elastic is not None and self.py_random.random() < self.elastic.p:
            alpha, sigma, edges = self.elastic.alpha, self.elastic.sigma, self.elastic.edges
            field = displacement_field(height, width, alpha, sigma, edges)
            weights = field.draw(self.random_generator)
            maps = source_maps(field, weights, IDENTITY if matrix is None else matrix)
        return {"matrix": matrix, "maps": maps}

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Warp an image (H, W, C) uint8, bilinearly."""
        return _warp(img, params["matrix"], params["maps"], cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        """Warp a mask (H, W) uint8 by nearest neighbour; an empty one stays as it is."""
        if not mask.any():
            return mask
        return _warp(mask, params["matrix"], params["maps"], cv2.INTER_NEAREST)


def _warp(
    image: np.ndarray,
    matrix: np.ndarray | None,
    maps: tuple[np.ndarray, ...] | None,
    interpolation: int,
) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] > CV_CHANNELS:
        parts = np.split(image, range(CV_CHANNELS, image.shape[2], CV_CHANNELS), axis=2)
        parts = [np.ascontiguousarray(part) for part in parts]
        return np.concatenate([_warp(p, matrix, maps, interpolation) for p in parts], axis=2)
    warped: np.ndarray
    if maps is not None:
        warped = cv2.remap(image, maps[0], maps[1], interpolation)
    elif matrix is not None:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(image, matrix, image.shape[1::-1], flags=flags)
    else:
        return image
    return warped.reshape(image.shape)

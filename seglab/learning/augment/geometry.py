"""Flips and warps on the device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from seglab.data.augment.displacement import Field, displacement_field
from seglab.data.augment.warp import Elastic, Warp
from seglab.learning.augment.transform import Params, Slices, each_sample


class DeviceFlip:
    """A flip of rows (axis 0) or columns (axis 1), each sample with its own coin."""

    def __init__(self, axis: int, p: float) -> None:
        self.axis, self.p = axis, p

    def draw(self, stream: np.random.Generator, count: int) -> Params | None:
        """Draw ``flipped`` (B,), 1 or 0."""
        flipped = stream.random(count) < self.p
        return {"flipped": flipped.astype(np.float32)} if flipped.any() else None

    def apply(
        self, slices: Slices, params: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> Slices:
        """Flip images and masks."""
        flipped, (images, masks) = each_sample(params["flipped"]) > 0, slices
        dim = 2 + self.axis
        return (
            torch.where(flipped, images.flip(dim), images),
            torch.where(flipped, masks.flip(dim), masks),
        )


class DeviceWarp:
    """``Warp``: one joint map for image (bilinear) and mask (nearest), 0 beyond the frame.

    A sample that is not moved goes through the identity, which changes no value.
    """

    def __init__(self, warp: Warp, hw: tuple[int, int], device: torch.device) -> None:
        self.warp, self.hw = warp, hw
        height, width = (torch.arange(side, device=device, dtype=torch.float32) for side in hw)
        self._pixels = torch.stack(torch.meshgrid(width, height, indexing="xy"))
        self._field = None if warp.elastic is None else _field(warp.elastic, hw)
        if self._field is not None:
            self._left = torch.from_numpy(self._field.left).to(device)
            self._right = torch.from_numpy(self._field.right).to(device)

    def draw(self, stream: np.random.Generator, count: int) -> Params | None:
        """Draw ``matrix`` (B,2,3) and, if any sample is displaced, ``weights`` (B,m,n)."""
        chosen = stream.random(count) < self.warp.p
        matrices, is_affine = self._draw_matrices(stream, chosen)
        weights, is_elastic = self._draw_weights(stream, chosen)
        if is_elastic:
            return {"matrix": matrices, "weights": weights}
        return {"matrix": matrices} if is_affine else None

    def _draw_matrices(
        self, stream: np.random.Generator, chosen: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], bool]:
        matrices = np.repeat(np.eye(2, 3, dtype=np.float32)[None], len(chosen), axis=0)
        limits = self.warp.affine
        if limits is None:
            return matrices, False
        moved = np.flatnonzero(chosen & (stream.random(len(chosen)) < limits.p))
        for i in moved:
            matrices[i] = limits.draw(stream.uniform, *self.hw)
        return matrices, len(moved) > 0

    def _draw_weights(
        self, stream: np.random.Generator, chosen: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], bool]:
        if self._field is None or self.warp.elastic is None:
            return np.empty(0, np.float32), False
        size = self._field.left.shape[1], self._field.right.shape[1]
        weights = np.zeros((len(chosen), *size), np.float32)
        displaced = np.flatnonzero(chosen & (stream.random(len(chosen)) < self.warp.elastic.p))
        for i in displaced:
            weights[i] = self._field.draw(stream)
        return weights, len(displaced) > 0

    def apply(
        self, slices: Slices, params: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> Slices:
        """Resample images and masks."""
        images, masks = slices
        grid = self.source(params["matrix"], params.get("weights"))
        moved = functional.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)
        nearest = functional.grid_sample(masks, grid, "nearest", "zeros", align_corners=False)
        return moved.round().clamp(0, 255), nearest

    def source(self, matrix: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Tell where each pixel comes from: (B,H,W,2) x, y as ``grid_sample`` counts them.

        ``matrix @ (x + dx, y + dy, 1)`` for the displacements that ``weights`` give,
        scaled to -1 at the frame's first edge and 1 at its last.
        """
        x, y = self._pixels
        if weights is not None:
            x, y = (self._pixels + self.displacement(weights)).unbind(1)
        # No matrix product: TF32 would round coordinates by up to a fifth of a pixel.
        rows = matrix[..., None, None].unbind(1)
        moved = [a * x + b * y + c for a, b, c in (row.unbind(1) for row in rows)]
        height, width = self.hw
        scaled = [(2 * to + 1) / side - 1 for to, side in zip(moved, (width, height), strict=True)]
        return torch.stack(scaled, dim=-1)

    def displacement(self, weights: torch.Tensor) -> torch.Tensor:
        """Expand weights (B,m,n) to displacements (B,2,H,W) along x and y, in pixels."""
        assert self._field is not None
        step, (height, width) = self._field.step, self.hw
        nodes = (self._left @ weights @ self._right.T).view(len(weights), 2, -1, len(self._right))
        size = [int(side) * step for side in nodes.shape[2:]]
        fine = functional.interpolate(nodes, size, mode="bilinear")
        return fine[..., step : step + height, step : step + width]


def _field(elastic: Elastic, hw: tuple[int, int]) -> Field:
    return displacement_field(*hw, elastic.alpha, elastic.sigma, elastic.edges)

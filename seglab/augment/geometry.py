"""Mirror, rotation, scale, shift and elastic displacement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from seglab.augment.elastic import DisplacementField, Elastic
from seglab.augment.transform import Frame, Geometric, Params, enlarge, on_device


@dataclass(frozen=True)
class Flip(Geometric):
    """Reverses the rows (axis 0) or the columns (axis 1)."""

    axis: int
    p: float

    def draw(self, stream: np.random.Generator) -> Params:
        """Nothing but the coin is drawn."""
        return {}

    def apply(
        self, images: torch.Tensor, masks: torch.Tensor, params: Params
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flip all of them."""
        return images.flip(2 + self.axis), masks.flip(2 + self.axis)


@dataclass(frozen=True)
class Affine:
    """Limits of a random rotation, relative change of size and shift, each drawn uniformly."""

    rotate_deg: float
    scale: float
    shift_mm: float
    p: float = 1.0

    def draw(self, stream: np.random.Generator, frame: Frame) -> NDArray[np.float32]:
        """Draw a matrix (2,3) from (x, y, 1) of the output to (x, y) of the source, pixels."""
        angle = math.radians(stream.uniform(-self.rotate_deg, self.rotate_deg))
        scale = 1 + stream.uniform(-self.scale, self.scale)
        shift_px = stream.uniform(-self.shift_mm, self.shift_mm, 2) / frame.pixel_mm
        x, y = (frame.hw[1] - 1) / 2, (frame.hw[0] - 1) / 2
        new_x, new_y = x + shift_px[0], y + shift_px[1]
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        rows = [
            [cos, sin, x - cos * new_x - sin * new_y],
            [-sin, cos, y + sin * new_x - cos * new_y],
        ]
        return np.array(rows, np.float32)


class Warp(Geometric):
    """Moves image (bilinear) and mask (nearest) by one joint map, 0 beyond the frame.

    One resampling blurs the image once and costs half of two. Affine and elastic part are
    each drawn with their own probability.
    """

    p = 1.0

    def __init__(self, frame: Frame, affine: Affine | None, elastic: Elastic | None) -> None:
        self.frame, self.affine, self.elastic = frame, affine, elastic
        self.field = None if elastic is None else DisplacementField(elastic, frame)
        columns, rows = (torch.arange(side, dtype=torch.float32) for side in frame.hw[::-1])
        self._pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))

    def draw(self, stream: np.random.Generator) -> Params | None:
        """Draw ``matrix`` (2,3) and ``nodes`` (2,Y,X), the displacements in pixels."""
        drawn: dict[str, NDArray[np.float32]] = {"matrix": np.eye(2, 3, dtype=np.float32)}
        is_moved = False
        if self.affine is not None and stream.random() < self.affine.p:
            drawn["matrix"], is_moved = self.affine.draw(stream, self.frame), True
        if self.elastic is not None and self.field is not None:
            is_displaced = stream.random() < self.elastic.p
            drawn["nodes"] = self.field.draw(stream) if is_displaced else self.field.still
            is_moved = is_moved or is_displaced
        return drawn if is_moved else None

    def apply(
        self, images: torch.Tensor, masks: torch.Tensor, params: Params
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Resample images and masks."""
        grid = self.source(images, params)
        moved = functional.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)
        nearest = functional.grid_sample(masks, grid, "nearest", "zeros", align_corners=False)
        return moved.round_().clamp_(0, 255), nearest

    def source(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Tell where each pixel comes from: (n,H,W,2) x, y as ``grid_sample`` counts them.

        ``matrix @ (x + dx, y + dy, 1)``, scaled to -1 at the frame's first edge and 1 at its last.
        """
        pixels, hw = self._pixels.to(images.device, non_blocking=True)[None], self.frame.hw
        if "nodes" in params and params["nodes"].any():
            nodes = on_device(params["nodes"], images)
            pixels = pixels + enlarge(nodes, hw, between_centres=True)
        x, y = pixels.unbind(1)
        # No matrix product: TF32 would round coordinates by up to a fifth of a pixel.
        rows = on_device(params["matrix"], images)[..., None, None].unbind(1)
        moved = [a * x + b * y + c for a, b, c in (row.unbind(1) for row in rows)]
        scaled = [(2 * to + 1) / side - 1 for to, side in zip(moved, hw[::-1], strict=True)]
        return torch.stack(scaled, dim=-1)

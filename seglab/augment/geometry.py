"""Mirror, rotation, scale, shift and elastic displacement of images with their masks.

The elastic field is white noise blurred by a Gaussian of SD ``sigma``: its correlation at the
distance d is exp(-d² / 4 sigma²), as of ``albumentations.ElasticTransform``. It is separable: with
K = L Lᵀ of few columns along each axis, ``L_rows @ z @ L_columns.T`` of standard normal z has it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seglab.augment.transform import Frame, Geometric, Params, enlarge, in_share, on_device

NODES_PER_SIGMA = 2.5  # linear interpolation between nodes so close takes less than 1 % off the SD
LOST_VARIANCE = 0.01
"""Largest share of any node's variance that the factors may leave out (0.1 % on average)."""


class Affine(NamedTuple):
    """Limits of a random rotation, relative change of size and shift, each drawn uniformly."""

    rotate_deg: float
    scale: float
    shift_mm: float
    p: float = 1.0

    def __str__(self) -> str:
        size, shift = 100 * self.scale, self.shift_mm
        limits = f"rotation ±{self.rotate_deg:g}°, size ±{size:g} %, shift ±{shift:g} mm"
        return in_share(limits, self.p)


class Elastic(NamedTuple):
    """Displacement of ``sd_mm`` (SD along each axis) that is smooth over ``sigma_mm``."""

    sd_mm: float
    sigma_mm: float
    p: float = 1.0

    def __str__(self) -> str:
        limits = f"elastic displacement of SD {self.sd_mm:g} mm, smooth over {self.sigma_mm:g} mm"
        return in_share(limits, self.p)


def flip(axis: int, p: float, limits: str) -> Geometric:
    """Reverse the rows (axis 0) or the columns (axis 1); ``limits`` says what that swaps."""

    def apply(images: Tensor, masks: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        return images.flip(2 + axis), masks.flip(2 + axis)

    return Geometric(p, lambda stream: {}, apply, limits=limits)


def warp(frame: Frame, affine: Affine | None = None, elastic: Elastic | None = None) -> Geometric:
    """Move image (bilinear) and mask (nearest) by one joint map, 0 beyond the frame.

    Affine and elastic part are drawn with a probability each: ``matrix`` (2,3) and ``nodes``
    (2,Y,X), displacements along x and y in pixels, the outer ones on the frame's outermost pixels.
    """
    none = np.zeros((2, 1))
    roots = [elastic_root(side * frame.pixel_mm, elastic) if elastic else none for side in frame.hw]

    def draw(stream: np.random.Generator) -> Params | None:
        matrix = np.eye(2, 3, dtype=np.float32)
        nodes = np.zeros((2, len(roots[0]), len(roots[1])), np.float32)
        is_turned = affine is not None and stream.random() < affine.p
        if affine is not None and is_turned:
            matrix = draw_matrix(affine, frame, stream)
        is_displaced = elastic is not None and stream.random() < elastic.p
        if elastic is not None and is_displaced:
            nodes = draw_nodes(roots, elastic.sd_mm / frame.pixel_mm, stream)
        return {"matrix": matrix, "nodes": nodes} if is_turned or is_displaced else None

    def apply(images: Tensor, masks: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        grid = source_grid(images, params)
        moved = functional.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)
        nearest = functional.grid_sample(masks, grid, "nearest", "zeros", align_corners=False)
        return moved.round_().clamp_(0, 255), nearest

    parts = [str(part) for part in (affine, elastic) if part is not None]
    return Geometric(1.0, draw, apply, limits="; ".join(parts))


def draw_matrix(limits: Affine, frame: Frame, stream: np.random.Generator) -> NDArray[np.float32]:
    """Draw a matrix (2,3) from (x, y, 1) of the output to (x, y) of the source, in pixels."""
    angle = math.radians(stream.uniform(-limits.rotate_deg, limits.rotate_deg))
    scale = 1 + stream.uniform(-limits.scale, limits.scale)
    shift_px = stream.uniform(-limits.shift_mm, limits.shift_mm, 2) / frame.pixel_mm
    x, y = (frame.hw[1] - 1) / 2, (frame.hw[0] - 1) / 2
    new_x, new_y = x + shift_px[0], y + shift_px[1]
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    rows = [[cos, sin, x - cos * new_x - sin * new_y], [-sin, cos, y + sin * new_x - cos * new_y]]
    return np.array(rows, np.float32)


def draw_nodes(
    roots: list[NDArray[np.float64]], sd_px: float, stream: np.random.Generator
) -> NDArray[np.float32]:
    """Draw displacements (2,Y,X) from the roots of the correlation along rows and columns."""
    rows, columns = roots
    modes = stream.standard_normal((2, rows.shape[1], columns.shape[1]))
    # By einsum, not by BLAS: the bits do not depend on the number of threads.
    along_rows = np.einsum("ym,dmn->dyn", rows, modes)
    return np.asarray(sd_px * np.einsum("dyn,xn->dyx", along_rows, columns), np.float32)


def elastic_root(side_mm: float, elastic: Elastic) -> NDArray[np.float64]:
    """Root (nodes, modes) of the correlation along one axis."""
    count = math.ceil(side_mm / elastic.sigma_mm * NODES_PER_SIGMA) + 1
    positions = np.linspace(0, side_mm, count)
    distance = np.subtract.outer(positions, positions)
    return low_rank_root(np.exp(-((distance / (2 * elastic.sigma_mm)) ** 2)))


def low_rank_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pivoted Cholesky factor (n, r), r << n for smooth fields: ``L @ L.T`` ≈ ``covariance``."""
    variance, rest = covariance.diagonal().copy(), covariance.copy()
    columns: list[NDArray[np.float64]] = []
    while len(columns) < len(variance):
        lost = rest.diagonal() / variance
        pivot = int(lost.argmax())
        if lost[pivot] <= LOST_VARIANCE:
            break
        columns.append(rest[:, pivot] / np.sqrt(rest[pivot, pivot]))
        rest -= np.outer(columns[-1], columns[-1])
    return np.stack(columns, axis=1)


def source_grid(images: Tensor, params: Params) -> Tensor:
    """Tell where each pixel comes from: (n,H,W,2) x, y as ``grid_sample`` counts them.

    ``matrix @ (x + dx, y + dy, 1)``, scaled to -1 at the frame's first edge and 1 at its last.
    """
    height, width = images.shape[2:]
    x, y = (torch.arange(side, device=images.device).float() for side in (width, height))
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
    if params["nodes"].any():
        nodes = on_device(params["nodes"], images)
        pixels = pixels + enlarge(nodes, (height, width), between_centres=True)
    x, y = pixels.unbind(1)
    # No matrix product: TF32 would round coordinates by up to a fifth of a pixel.
    rows = on_device(params["matrix"], images)[..., None, None].unbind(1)
    moved = [a * x + b * y + c for a, b, c in (row.unbind(1) for row in rows)]
    scaled = [(2 * to + 1) / side - 1 for to, side in zip(moved, (width, height), strict=True)]
    return torch.stack(scaled, dim=-1)

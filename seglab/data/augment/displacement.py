"""Random displacement fields with the distribution of ``albumentations.ElasticTransform``.

albumentations draws white noise of shape (2H, W), the x components above the y
components, divides it by its largest magnitude, blurs it with a Gaussian of ``sigma``
(edge values replicated) and multiplies it by ``alpha``. That is a Gaussian field with
covariance K_rows ⊗ K_columns, K = G Gᵀ for the matrix G of the blur. From K = L Lᵀ with
few columns in L the same field is ``L_rows @ z @ L_columns.T`` for a small matrix ``z``
of standard normal numbers: hundreds of random numbers instead of 2HW, and no blur. As
it is smooth, it is computed at nodes ``sigma`` / 2.5 apart and interpolated linearly.

Everything here gives the same bits whatever the number of threads: nothing is left to
a multi-threaded BLAS or LAPACK.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import cv2
import numpy as np

Edges = Literal["replicate", "free"]
"""What the blur meets beyond the frame. ``replicate``, as in albumentations, repeats the
noise of the edge, which makes displacements there about four times as large; ``free`` goes
on with new noise, so that the field is the same everywhere as theirs is far from the edge."""

NODES_PER_SIGMA = 2.5
"""Linear interpolation between nodes so close takes less than 1 % off the SD."""

LOST_VARIANCE = 0.01
"""Largest share of any node's variance that the factors may leave out (0.1 % on average)."""

ONE_THREAD_MULTIPLICATIONS = 200_000
"""OpenBLAS computes products up to 262,144 multiplications in the calling thread."""


@dataclass(frozen=True, eq=False)
class Field:
    """Distribution of a displacement field (2, H, W) in pixels, by its values at nodes."""

    left: np.ndarray
    """(2Y, m) float32: ``left @ z @ right.T``, z (m, n) standard normal, holds the
    displacements along x at the (Y, X) nodes, then those along y."""
    right: np.ndarray
    """(X, n) float32."""
    y: np.ndarray
    """(Y,) float32: pixel coordinates of the nodes, one beyond the frame at each end."""
    x: np.ndarray
    """(X,) float32."""
    step: int
    """Pixels between nodes."""
    shape: tuple[int, int]

    @functools.cached_property
    def columns(self) -> np.ndarray:
        """(n + 2, X) float32: what expands a row of modes, with x and 1 below."""
        return np.concatenate([self.right.T, self.x[None], np.ones_like(self.x)[None]])

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Draw the weights z (m, n) float32 of one field."""
        size = self.left.shape[1], self.right.shape[1]
        return generator.standard_normal(size, dtype=np.float32)


@functools.lru_cache(maxsize=16)
def displacement_field(height: int, width: int, alpha: float, sigma: float, edges: Edges) -> Field:
    """Field of ``albumentations.ElasticTransform(alpha, sigma)`` on a frame of pixels."""
    step = max(1, int(sigma / NODES_PER_SIGMA))
    y, x = node_positions(height, step), node_positions(width, step)
    if edges == "replicate":
        both = low_rank_root(replicate_covariance(2 * height, sigma))
        left = np.concatenate([at_positions(part, y) for part in np.split(both, 2)])
        right = at_positions(low_rank_root(replicate_covariance(width, sigma)), x)
    else:
        left = np.kron(np.eye(2), low_rank_root(free_covariance(y, sigma)))
        right = low_rank_root(free_covariance(x, sigma))
    left *= alpha / typical_maximum(2 * height * width)
    left, right, y, x = (array.astype(np.float32) for array in (left, right, y, x))
    return Field(left, right, y, x, step, (height, width))


def node_positions(length: int, step: int) -> np.ndarray:
    """Pixel coordinates of nodes as ``cv2.resize`` places them, one more at each end."""
    return (np.arange(-(-length // step) + 2) - 1) * step + (step - 1) / 2


def replicate_covariance(length: int, sigma: float) -> np.ndarray:
    """Covariance (length, length) of white noise blurred by ``cv2.GaussianBlur``, at pixels."""
    kernel_px = round(sigma * 8 + 1) | 1  # what it takes by itself for float images
    # Blurring the identity along both axes is G I Gᵀ.
    covariance: np.ndarray = cv2.GaussianBlur(
        np.eye(length), (kernel_px, kernel_px), sigma, borderType=cv2.BORDER_REPLICATE
    )
    return covariance


def free_covariance(positions: np.ndarray, sigma: float) -> np.ndarray:
    """Covariance of white noise blurred on an endless line: g ⋆ g for the Gaussian g."""
    distance = np.subtract.outer(positions, positions)
    covariance: np.ndarray = np.exp(-((distance / (2 * sigma)) ** 2)) / (2 * sigma * np.sqrt(np.pi))
    return covariance


def low_rank_root(covariance: np.ndarray) -> np.ndarray:
    """Pivoted Cholesky factor (n, r), r << n for smooth fields: ``L @ L.T`` ≈ ``covariance``."""
    variance = covariance.diagonal().copy()
    rest = covariance.copy()
    columns: list[np.ndarray] = []
    while len(columns) < len(variance):
        lost = rest.diagonal() / variance
        pivot = int(lost.argmax())
        if lost[pivot] <= LOST_VARIANCE:
            break
        column = rest[:, pivot] / np.sqrt(rest[pivot, pivot])
        rest -= np.outer(column, column)
        columns.append(column)
    return np.stack(columns, axis=1)


def at_positions(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate ``rows`` (pixels, n) linearly at fractional pixels, beyond the ends too."""
    below = np.clip(np.floor(positions), 0, len(rows) - 2).astype(int)
    share = (positions - below)[:, None]
    between: np.ndarray = (1 - share) * rows[below] + share * rows[below + 1]
    return between


def typical_maximum(count: int) -> float:
    """Median of the largest magnitude among ``count`` standard normal numbers."""
    return NormalDist().inv_cdf((1 + 0.5 ** (1 / count)) / 2)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``left @ right`` (float32) in blocks of rows that BLAS does not share among threads."""
    rows = max(1, ONE_THREAD_MULTIPLICATIONS // right.size)
    out = np.empty((left.shape[0], right.shape[1]), np.float32)
    for start in range(0, len(out), rows):
        np.matmul(left[start : start + rows], right, out=out[start : start + rows])
    return out


def source_maps(
    field: Field, weights: np.ndarray, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a displaced, then affinely mapped image comes from.

    Args:
        field: of the frame.
        weights: (m, n) float32, as ``field.draw`` gives them.
        matrix: (2, 3), takes (x, y, 1) of the output to (x, y) of the source.

    Returns:
        x and y of ``matrix @ (x + dx, y + dy, 1)``, each (H, W) float32. The affine part
        rides along in the product that expands the field, as two further columns.
    """
    modes = weights.shape[1]
    dx, dy = product(field.left, weights).reshape(2, -1, modes)
    rows = np.empty((2, len(field.y), modes + 2), np.float32)
    for row, (along_x, along_y, shift) in zip(rows, matrix.tolist(), strict=True):
        row[:, :modes] = along_x * dx + along_y * dy
        row[:, modes] = along_x
        row[:, modes + 1] = along_y * field.y + shift
    at_nodes = product(rows.reshape(-1, modes + 2), field.columns).reshape(2, len(field.y), -1)
    return _between_nodes(field, at_nodes[0]), _between_nodes(field, at_nodes[1])


def _between_nodes(field: Field, plane: np.ndarray) -> np.ndarray:
    (height, width), step = field.shape, field.step
    size = plane.shape[1] * step, plane.shape[0] * step
    fine: np.ndarray = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return fine[step : step + height, step : step + width]

"""Random displacement fields with the distribution of ``albumentations.ElasticTransform``.

albumentations draws white noise of shape (2H, W), the x components above the y
components, divides it by its largest magnitude, blurs it with a Gaussian of ``sigma``
(edge values replicated) and multiplies it by ``alpha``. That is a Gaussian field with
covariance K_rows ⊗ K_columns, K = G Gᵀ for the matrix G of the blur. From K = L Lᵀ with
few columns in L the same field is ``L_rows @ z @ L_columns.T`` for a small matrix ``z``
of standard normal numbers: hundreds of random numbers instead of 2HW, and no blur.

Everything here gives the same bits whatever the number of threads: nothing is left to
a multi-threaded BLAS or LAPACK.
"""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import Literal

import cv2
import numpy as np

Edges = Literal["replicate", "free"]
"""What the blur meets beyond the frame. ``replicate``, as in albumentations, repeats the
noise of the edge, which makes displacements there about four times as large; ``free`` goes
on with new noise, so that the field is the same everywhere as theirs is far from the edge."""

LOST_VARIANCE = 0.01
"""Largest share of any pixel's variance that the factors may leave out (0.1 % on average)."""

ONE_THREAD_MULTIPLICATIONS = 200_000
"""OpenBLAS computes products up to 262,144 multiplications in the calling thread."""


def blur_covariance(length: int, sigma: float, edges: Edges) -> np.ndarray:
    """Covariance (length, length) float64 of white noise blurred along a line of pixels."""
    kernel_px = round(sigma * 8 + 1) | 1  # what cv2.GaussianBlur takes for float images
    margin = 0 if edges == "replicate" else kernel_px
    # Blurring the identity along both axes is G I Gᵀ.
    covariance: np.ndarray = cv2.GaussianBlur(
        np.eye(length + 2 * margin),
        (kernel_px, kernel_px),
        sigma,
        borderType=cv2.BORDER_REPLICATE,
    )
    return covariance[margin : margin + length, margin : margin + length]


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


def typical_maximum(count: int) -> float:
    """Median of the largest magnitude among ``count`` standard normal numbers."""
    return NormalDist().inv_cdf((1 + 0.5 ** (1 / count)) / 2)


@functools.lru_cache(maxsize=16)
def field_factors(
    height: int, width: int, alpha: float, sigma: float, edges: Edges
) -> tuple[np.ndarray, np.ndarray]:
    """Left (2H, m) and right (W, n) factor of a field, float32; shared, do not change them.

    ``left @ z @ right.T`` with ``z`` (m, n) standard normal holds the displacements along
    x (first H rows) and along y in pixels.
    """
    scale = alpha / typical_maximum(2 * height * width)
    if edges == "replicate":
        left = low_rank_root(blur_covariance(2 * height, sigma, edges))
    else:
        left = np.kron(np.eye(2), low_rank_root(blur_covariance(height, sigma, edges)))
    right = low_rank_root(blur_covariance(width, sigma, edges))
    return (scale * left).astype(np.float32), right.astype(np.float32)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``left @ right`` (float32) in blocks of rows that BLAS does not share among threads."""
    rows = max(1, ONE_THREAD_MULTIPLICATIONS // right.size)
    out = np.empty((left.shape[0], right.shape[1]), np.float32)
    for start in range(0, len(out), rows):
        np.matmul(left[start : start + rows], right, out=out[start : start + rows])
    return out


def source_maps(
    matrix: np.ndarray, left: np.ndarray, weights: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a displaced, then affinely mapped image comes from.

    Args:
        matrix: (2, 3), takes (x, y, 1) of the output to (x, y) of the source.
        left: (2H, m), of ``field_factors``, as is ``right`` (W, n).
        weights: (m, n) float32, standard normal.

    Returns:
        x and y of ``matrix @ (x + dx, y + dy, 1)``, each (H, W) float32. The affine part
        rides along in the product that expands the field, as two further columns.
    """
    height, (width, modes) = len(left) // 2, right.shape
    dx, dy = product(left, weights).reshape(2, height, modes)
    rows = np.empty((2, height, modes + 2), np.float32)
    y = np.arange(height, dtype=np.float32)
    for row, (along_x, along_y, shift) in zip(rows, matrix.tolist(), strict=True):
        row[:, :modes] = along_x * dx + along_y * dy
        row[:, modes] = along_x
        row[:, modes + 1] = along_y * y + shift
    x = np.arange(width, dtype=np.float32)
    columns = np.concatenate([right.T, x[None], np.ones_like(x)[None]])
    maps = product(rows.reshape(2 * height, modes + 2), columns)
    return maps[:height], maps[height:]

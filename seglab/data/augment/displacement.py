"""Random displacement fields with the distribution of ``albumentations.ElasticTransform``.

albumentations draws white noise of shape (2H, W) — the row components above the
column components —, divides it by its largest magnitude, blurs it with a Gaussian
of ``sigma`` (edge values replicated) and multiplies by ``alpha``. The result is a
Gaussian field with covariance K_rows ⊗ K_columns, K = G Gᵀ for the blur matrix G.
Drawn in the leading eigenvectors of the two K (Karhunen–Loève), the same field takes
some hundred random numbers and two small matrix products instead of 2HW numbers and
a wide blur.
"""

from __future__ import annotations

import functools
from statistics import NormalDist

import cv2
import numpy as np

KEPT_VARIANCE = 0.999


@functools.lru_cache(maxsize=16)
def blur_modes(length: int, sigma: float) -> np.ndarray:
    """Scaled eigenvectors of the covariance of blurred white noise on a line.

    Args:
        length: pixels.
        sigma: of the Gaussian, pixels.

    Returns:
        (length, modes) float32, read-only; ``modes @ z`` with ``z`` standard normal has
        the covariance G Gᵀ of ``cv2.GaussianBlur`` with replicated edges, but for
        0.1 % of the variance.
    """
    impulses = np.eye(length, dtype=np.float64)
    kernel_px = round(sigma * 8 + 1) | 1  # what cv2.GaussianBlur takes for float images
    blur = cv2.GaussianBlur(impulses, (kernel_px, 1), sigma, borderType=cv2.BORDER_REPLICATE)
    variances, vectors = np.linalg.eigh(blur.T @ blur)
    variances, vectors = variances[::-1].clip(0), vectors[:, ::-1]
    kept = np.searchsorted(np.cumsum(variances), KEPT_VARIANCE * variances.sum()) + 1
    modes: np.ndarray = (vectors[:, :kept] * np.sqrt(variances[:kept])).astype(np.float32)
    modes.flags.writeable = False
    return modes


def typical_maximum(count: int) -> float:
    """Median of the largest magnitude among ``count`` standard normal numbers."""
    return NormalDist().inv_cdf((1 + 0.5 ** (1 / count)) / 2)


@functools.lru_cache(maxsize=16)
def field_factors(height: int, width: int, alpha: float, sigma: float) -> tuple[np.ndarray, ...]:
    """Left (2, H, m) and right (W, n) factor of a displacement field, float32, read-only.

    ``left @ z @ right.T`` with ``z`` (m, n) standard normal is a field (2, H, W) of
    displacements along x and y in pixels.
    """
    scale = np.float32(alpha / typical_maximum(2 * height * width))
    left = (blur_modes(2 * height, sigma) * scale).reshape(2, height, -1)
    left.flags.writeable = False
    return left, blur_modes(width, sigma)


def source_maps(
    matrix: np.ndarray, left: np.ndarray, weights: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Where each pixel of a displaced, then affinely mapped image comes from.

    Args:
        matrix: (2, 3) float32, output (x, y, 1) to source (x, y).
        left: (2, H, m) and ``right`` (W, n): factors of the field.
        weights: (m, n) float32, standard normal.

    Returns:
        (2, H, W) float32: x and y of ``matrix @ (x + dx, y + dy, 1)``. The affine part
        rides along in the product that expands the field, as two further columns.
    """
    _, height, modes = *left.shape[:2], right.shape[1]
    rows = np.empty((2, height, modes + 2), np.float32)
    np.matmul(np.tensordot(matrix[:, :2], left, 1), weights, out=rows[..., :modes])
    rows[..., modes] = matrix[:, :1]
    rows[..., modes + 1] = matrix[:, 1:2] * np.arange(height, dtype=np.float32) + matrix[:, 2:]
    x = np.arange(len(right), dtype=np.float32)
    columns = np.column_stack([right, x, np.ones_like(x)])
    maps: np.ndarray = rows @ columns.T
    return maps

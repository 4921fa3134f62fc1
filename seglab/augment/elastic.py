"""Random elastic displacement: a smooth Gaussian field from a few hundred random numbers.

White noise blurred by a Gaussian of SD ``sigma`` has the correlation exp(-d² / 4 sigma²) at
the distance d (the law of ``albumentations.ElasticTransform`` far from the frame's edges). It
is separable: K_rows ⊗ K_columns. From K = L Lᵀ with few columns in L the field at some nodes
is ``L_rows @ z @ L_columns.T`` for a small matrix ``z`` of standard normal numbers. As it is
smooth, nodes ``sigma`` / 2.5 apart suffice, with linear interpolation between them.

Sums are formed by ``einsum``, not by BLAS: the bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seglab.augment.transform import Frame

NODES_PER_SIGMA = 2.5
"""Linear interpolation between nodes so close takes less than 1 % off the SD."""
LOST_VARIANCE = 0.01
"""Largest share of any node's variance that the factors may leave out (0.1 % on average)."""


@dataclass(frozen=True)
class Elastic:
    """Displacement of ``sd_mm`` (SD along each axis) that is smooth over ``sigma_mm``."""

    sd_mm: float
    sigma_mm: float
    p: float = 1.0


class DisplacementField:
    """Displacements at the nodes of a frame; the outer ones lie on its outermost pixels."""

    def __init__(self, elastic: Elastic, frame: Frame) -> None:
        self.sd_px = elastic.sd_mm / frame.pixel_mm
        self.rows, self.columns = (
            _root(side * frame.pixel_mm, elastic.sigma_mm) for side in frame.hw
        )
        self.still = np.zeros((2, len(self.rows), len(self.columns)), np.float32)

    def draw(self, stream: np.random.Generator) -> NDArray[np.float32]:
        """Draw displacements (2, Y, X) along x and y at the nodes, in pixels."""
        modes = stream.standard_normal((2, self.rows.shape[1], self.columns.shape[1]))
        along_rows = np.einsum("ym,dmn->dyn", self.rows, modes)
        nodes = np.einsum("dyn,xn->dyx", along_rows, self.columns)
        return np.asarray(self.sd_px * nodes, np.float32)


def _root(side_mm: float, sigma_mm: float) -> NDArray[np.float64]:
    """Root (nodes, modes) of the correlation along one axis."""
    positions = np.linspace(0, side_mm, math.ceil(side_mm / sigma_mm * NODES_PER_SIGMA) + 1)
    distance = np.subtract.outer(positions, positions)
    return low_rank_root(np.exp(-((distance / (2 * sigma_mm)) ** 2)))


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

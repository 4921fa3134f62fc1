"""Surface scores of a volume: HD95 and the surface Dice at 2 mm, equal to MONAI's.

The surface of a mask is its voxels with one of six neighbours outside the mask or the frame.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seglab.core.arrays import bounding_box

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Spacing = tuple[float, float, float]
TOLERANCE_MM = 2.0
VOXELS_PER_SEARCH = 20
"""Voxels that a distance transform handles in the time of one search in a tree: measured 11 to 16
for surfaces that lie close, as those of a trained network, and up to 60 for others."""


def surface_scores(pred: BoolArray, truth: BoolArray, spacing_mm: Spacing) -> tuple[float, float]:
    """HD95 in mm and surface Dice at 2 mm of masks (S, H, W); spacing is (slice, row, column).

    HD95 is the larger of the two directed 95th percentiles of the distances in mm; the other the
    share of all surface voxels within 2 mm of the other surface (Nikolov 2018). NaN without truth.
    A truth that was missed altogether scores the diagonal of the volume (BraTS: 373.13 mm) and 0.
    """
    if not truth.any():
        return math.nan, math.nan
    if not pred.any():
        return float(np.linalg.norm(np.multiply(truth.shape, spacing_mm))), 0.0
    box = bounding_box(pred | truth)
    pred_surface, truth_surface = surface(pred[box]), surface(truth[box])
    from_pred = distances(pred_surface, truth_surface, spacing_mm)
    from_truth = distances(truth_surface, pred_surface, spacing_mm)
    hd95 = max(np.percentile(from_pred, 95), np.percentile(from_truth, 95))
    near = sum(np.count_nonzero(found <= TOLERANCE_MM) for found in (from_pred, from_truth))
    return float(hd95), near / (from_pred.size + from_truth.size)


def surface(mask: BoolArray) -> BoolArray:
    """Voxels of a (S, H, W) mask with at least one of six neighbours outside it."""
    inside = mask.copy()  # SciPy's erosion takes five times as long
    for axis in range(mask.ndim):
        own, neighbours = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        own[1:] &= neighbours[:-1]
        own[:-1] &= neighbours[1:]
        own[[0, -1]] = False
    return mask & ~inside


def distances(points: BoolArray, mask: BoolArray, spacing_mm: Spacing) -> FloatArray:
    """Distance of each of n points (S, H, W), in C order, to the nearest voxel of ``mask`` in mm.

    A tree is searched where few points lie outside the mask; where many do, as for an untrained
    network, one distance transform bounds the work. Infinite where ``mask`` is empty.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import KDTree

    apart = points & ~mask
    found: FloatArray = np.zeros(np.count_nonzero(points))
    positions, outside = np.argwhere(apart), apart[points]
    if not mask.any():
        found[outside] = np.inf
    elif len(positions):
        if len(positions) * VOXELS_PER_SEARCH > apart.size:
            indices = distance_transform_edt(
                ~mask, spacing_mm, return_distances=False, return_indices=True
            )
            nearest = indices[:, apart].T
        else:
            voxels = np.argwhere(surface(mask))
            tree = KDTree(voxels * spacing_mm, leafsize=32)
            nearest = voxels[tree.query(positions * spacing_mm)[1]]
        found[outside] = np.linalg.norm((nearest - positions) * spacing_mm, axis=1)
    return found

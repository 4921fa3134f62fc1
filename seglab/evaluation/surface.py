"""Surface scores of a volume: HD95 and the surface Dice at 2 mm.

The surface of a mask is its voxels with at least one of six neighbours outside
the mask; beyond the frame is outside. For each surface voxel the Euclidean
distance in millimetres to the other mask's nearest surface voxel is taken.

- ``hd95_mm``: the larger of the two directed 95th percentiles (linear
  interpolation) of these distances.
- ``nsd_2mm``: the share of all surface voxels of both masks whose distance is at
  most 2 mm (Nikolov et al. 2018, counted in voxels, not in areas).

Both equal MONAI's ``compute_hausdorff_distance(percentile=95)`` and
``compute_surface_dice``. Empty masks: with an empty truth both are NaN and the
patient is left out of means. A truth that was missed altogether scores nsd 0 and,
as the worst possible distance, the diagonal of the volume (BraTS: 373.13 mm for
240×240×155 voxels of 1 mm), so that a mean stays finite and a miss stays dear.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
TOLERANCE_MM = 2.0
VOXELS_PER_SEARCH = 250
"""Voxels that a distance transform handles in the time of one search, measured."""
_EXACT_PX = 512
"""Up to here OpenCV's distances, squared, are within 0.1 of the whole numbers they stand for."""


@dataclass(frozen=True)
class SurfaceScores:
    """Scores of two surfaces; NaN where the truth has none."""

    hd95_mm: float
    nsd_2mm: float


UNDEFINED = SurfaceScores(hd95_mm=float("nan"), nsd_2mm=float("nan"))


def surface_scores(
    pred: BoolArray, truth: BoolArray, spacing_mm: tuple[float, float, float]
) -> SurfaceScores:
    """Compare the surfaces of two masks.

    Args:
        pred: (S, H, W) bool.
        truth: (S, H, W) bool.
        spacing_mm: (slice, row, column), all above 0.

    Returns:
        HD95 in [0, diagonal] mm and surface Dice in [0, 1]; see the module for empty masks.
    """
    pred_box, truth_box = bounding_box(pred), bounding_box(truth)
    if truth_box is None:
        return UNDEFINED
    if pred_box is None:
        return SurfaceScores(hd95_mm=diagonal_mm(truth.shape, spacing_mm), nsd_2mm=0.0)
    both = tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(pred_box, truth_box, strict=True)
    )
    pred_surface, truth_surface = surface(pred[both]), surface(truth[both])
    from_pred = _distances(pred_surface, truth_surface, spacing_mm)
    from_truth = _distances(truth_surface, pred_surface, spacing_mm)
    hd95 = max(np.percentile(from_pred, 95), np.percentile(from_truth, 95))
    near = np.count_nonzero(from_pred <= TOLERANCE_MM) + np.count_nonzero(
        from_truth <= TOLERANCE_MM
    )
    return SurfaceScores(float(hd95), near / (from_pred.size + from_truth.size))


def diagonal_mm(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> float:
    """Length of the diagonal of a volume: no two of its points lie further apart."""
    return float(np.linalg.norm(np.multiply(shape, spacing_mm)))


def bounding_box(mask: BoolArray) -> tuple[slice, slice, slice] | None:
    """Smallest box that holds every True voxel of a (S, H, W) mask, or None."""
    slices = _extent(np.any(mask, axis=(1, 2)))
    if slices is None:
        return None
    # Collapsing the slices first leaves one plane for the other two axes.
    plane = np.any(mask[slices], axis=0)
    rows, columns = _extent(np.any(plane, axis=1)), _extent(np.any(plane, axis=0))
    assert rows is not None
    assert columns is not None
    return slices, rows, columns


def surface(mask: BoolArray) -> BoolArray:
    """Voxels of a (S, H, W) mask with at least one of six neighbours outside it."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        inner = np.moveaxis(inside, axis, 0)
        source = np.moveaxis(mask, axis, 0)
        inner[1:] &= source[:-1]
        inner[:-1] &= source[1:]
        inner[[0, -1]] = False
    return mask & ~inside


def _extent(occupied: BoolArray | np.bool_) -> slice | None:
    hits = np.flatnonzero(occupied)
    return slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else None


def _distances(
    surface_from: BoolArray, surface_to: BoolArray, spacing_mm: tuple[float, float, float]
) -> FloatArray:
    """Distance of each voxel of one surface to the nearest voxel of the other, in mm."""
    # Voxels on both surfaces are at 0: only the others need a search.
    apart = surface_from & ~surface_to
    searched = np.count_nonzero(apart)
    distances: FloatArray = np.zeros(np.count_nonzero(surface_from))
    if searched * VOXELS_PER_SEARCH > apart.size:
        distances[:searched] = _transformed(apart, surface_to, spacing_mm)
    elif searched:
        distances[:searched] = _searched(apart, surface_to, spacing_mm)
    return distances


def _searched(
    voxels: BoolArray, surface_to: BoolArray, spacing_mm: tuple[float, float, float]
) -> FloatArray:
    """A tree over the surface: ten times faster where the masks are alike."""
    from scipy.spatial import KDTree

    tree = KDTree(np.argwhere(surface_to) * spacing_mm, leafsize=32)
    found: FloatArray = tree.query(np.argwhere(voxels) * spacing_mm)[0]
    return found


def _transformed(
    voxels: BoolArray, surface_to: BoolArray, spacing_mm: tuple[float, float, float]
) -> FloatArray:
    """A distance transform of the box: bounded cost for the noise of an untrained network."""
    slice_mm, row_mm, column_mm = spacing_mm
    if row_mm == column_mm and max(surface_to.shape[1:]) <= _EXACT_PX:
        return row_mm * _by_planes(voxels, surface_to, slice_mm / row_mm)
    from scipy.ndimage import distance_transform_edt

    found: FloatArray = distance_transform_edt(~surface_to, sampling=spacing_mm)[voxels]
    return found


def _by_planes(voxels: BoolArray, surface_to: BoolArray, slice_px: float) -> FloatArray:
    """Distances in pixels: within each plane by OpenCV, then the least over the planes.

    Exact, since squared distances in a plane are whole numbers (Felzenszwalb &
    Huttenlocher 2012); several times faster than a transform of the volume, as the planes are
    only compared where a distance is asked for, nearest first.
    """
    squared = np.full(surface_to.shape, np.inf, np.float32)
    for plane in np.flatnonzero(surface_to.any(axis=(1, 2))):
        outside = (~surface_to[plane]).view(np.uint8)
        found = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        squared[plane] = np.rint(found * found)
    planes, rows, columns = np.nonzero(voxels)
    best = squared[planes, rows, columns].astype(np.float64)
    for step in range(1, len(surface_to)):
        extra = (step * slice_px) ** 2
        if not np.any(best > extra):
            break
        for side in (-step, step):
            asked = np.flatnonzero(
                (best > extra) & (planes + side >= 0) & (planes + side < len(surface_to))
            )
            there = squared[planes[asked] + side, rows[asked], columns[asked]]
            best[asked] = np.minimum(best[asked], there.astype(np.float64) + extra)
    return np.sqrt(best)

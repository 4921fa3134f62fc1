"""Signed distances in millimetres (negative inside) and how voxels average them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from seglab.data.phantom.grid import Array

Point = tuple[float, float, float]


def ellipsoid(x: Array, y: Array, z: Array, centre: Point, radii: Point) -> Array:
    """First-order distance to an axis-aligned ellipsoid; exact for a sphere outside its centre."""
    offsets = [a - np.float32(c) for a, c in zip((x, y, z), centre, strict=True)]
    scaled = [(o / np.float32(r)) ** 2 for o, r in zip(offsets, radii, strict=True)]
    reach = np.sqrt(sum(scaled))
    steepness = np.sqrt(sum(s / np.float32(r * r) for s, r in zip(scaled, radii, strict=True)))
    distance: Array = reach * (reach - 1) / np.maximum(steepness, np.float32(1e-6))
    return distance


def tube(x: Array, y: Array, z: Array, knots: Sequence[tuple[float, float, float, float]]) -> Array:
    """Distance to a chain of tapered capsules through ``(x, y, z, radius)`` knots."""
    nearest: Array | None = None
    for start, end in itertools.pairwise(knots):
        distance = _capsule(x, y, z, start, end)
        nearest = distance if nearest is None else np.minimum(nearest, distance)
    if nearest is None:
        raise ValueError("a tube needs at least two knots")
    return nearest


def _capsule(
    x: Array,
    y: Array,
    z: Array,
    start: tuple[float, float, float, float],
    end: tuple[float, float, float, float],
) -> Array:
    along = np.subtract(end[:3], start[:3])
    length2 = float(along @ along)
    dx, dy, dz = (a - np.float32(s) for a, s in zip((x, y, z), start[:3], strict=True))
    ax, ay, az = (np.float32(a) for a in along)
    t = np.clip((dx * ax + dy * ay + dz * az) / np.float32(length2), 0, 1)
    away = np.sqrt((dx - t * ax) ** 2 + (dy - t * ay) ** 2 + (dz - t * az) ** 2)
    distance: Array = away - (np.float32(start[3]) + t * np.float32(end[3] - start[3]))
    return distance


def smooth_union(distances: Sequence[Array], blend_mm: float) -> Array:
    """Union whose creases are filled over ``blend_mm`` (polynomial smooth minimum)."""
    union = distances[0]
    for other in distances[1:]:
        overlap = np.maximum(np.float32(blend_mm) - np.abs(union - other), 0)
        union = np.minimum(union, other) - overlap**2 / np.float32(4 * blend_mm)
    return union


def inside(distance: Array, edge_mm: float) -> Array:
    """Share of a voxel of width ``edge_mm`` that lies inside a boundary, in [0, 1]."""
    share: Array = np.clip(np.float32(0.5) - distance / np.float32(edge_mm), 0, 1)
    return share


def within_sheet(distance: Array, half_width_mm: Array | float, edge_mm: float) -> Array:
    """Share of a voxel of width ``edge_mm`` taken by a sheet at ``distance`` from its middle."""
    half = np.float32(edge_mm / 2)
    width = np.asarray(half_width_mm, np.float32)
    low = np.maximum(-width, distance - half)
    high = np.minimum(width, distance + half)
    share: Array = np.maximum(high - low, 0) / np.float32(edge_mm)
    return share

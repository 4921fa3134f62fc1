"""Finds one volume under two names: copied, rescaled, shifted by a voxel or touched up.

Each slice becomes a thumbnail of folds and edges, which differ between people as fingerprints do.
Similarity of two patients is the mean correlation over the slices that both have, also with one
stack moved by a slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32
"""Pixels of a thumbnail's side: 7.5 pixels of 240 each, so that a shift by one hardly shows."""
SLOW = SIDE / 12  # blur, in thumbnail pixels, that is taken out: it is alike in all heads
SAME = 0.93
"""Similarity from which two volumes are one. Pairs of different people: BraTS volumes at most 0.82,
the LGG set 0.56, single BraTS slices 0.90. A volume against itself rescaled, shifted by a voxel
along two axes, or with 1 % of its voxels replaced: at least 0.98."""
_BLANK = np.zeros(SIDE * SIDE, np.float16)


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a volume to compare it with others."""

    patient_id: str
    thumbs: dict[int, NDArray[np.float16]]
    """Position in the stack → (SIDE²,) of mean about 0 and norm 1; flat slices are left out."""
    digest: str  # hash of the image and its positions: equal where every byte is


@dataclass(frozen=True)
class Duplicate:
    """Two names of what seems to be one volume."""

    patients: tuple[str, str]
    similarity: float
    identical: bool  # whether every voxel is equal
    slices: int  # slices that were compared


def fingerprint(
    patient_id: str, image: NDArray[np.generic], slice_indices: NDArray[np.int32]
) -> Fingerprint:
    """Reduce a volume (S, H, W) to what :func:`duplicates` compares."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    digest.update(slice_indices.tobytes())
    thumbs = zip(slice_indices.tolist(), map(_thumbnail, image), strict=True)
    shown = {index: thumb for index, thumb in thumbs if thumb.any()}
    return Fingerprint(patient_id, shown, digest.hexdigest())


def _thumbnail(image: NDArray[np.generic]) -> NDArray[np.float16]:
    """(SIDE²,) of norm 1, or zeros where the slice (H, W) is flat."""
    wide = image.astype(np.float32)
    low, high = np.percentile(wide[::2, ::2], (1, 99.5))
    if not high > low:
        return _BLANK
    clipped = (np.clip(wide, low, high) - low) / np.float32(high - low)
    small = cv2.resize(clipped.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    fast = small - cv2.GaussianBlur(small, (0, 0), SLOW)
    return np.asarray(fast / max(float(np.linalg.norm(fast)), 1e-6), np.float16).ravel()


def duplicates(fingerprints: Sequence[Fingerprint]) -> tuple[Duplicate, ...]:
    """Find all pairs that reach :data:`SAME`, the most similar first."""
    best: dict[tuple[int, int], Duplicate] = {}
    for shift in (0, 1):
        similar, slices = _mean_correlation(fingerprints, shift)
        for i, j in np.argwhere(similar >= SAME).tolist():
            pair = (min(i, j), max(i, j))
            if i == j or (pair in best and best[pair].similarity >= similar[i, j]):
                continue
            first, second = (fingerprints[k] for k in pair)
            best[pair] = Duplicate(
                (first.patient_id, second.patient_id),
                similarity=min(float(similar[i, j]), 1.0),
                identical=first.digest == second.digest,
                slices=int(slices[i, j]),
            )
    return tuple(sorted(best.values(), key=lambda one: -one.similarity))


def _mean_correlation(
    fingerprints: Sequence[Fingerprint], shift: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(P, P) mean correlation where the second stack is moved by ``shift``; (P, P) slices."""
    total, slices = np.zeros((2, len(fingerprints), len(fingerprints)))
    for index in {index for one in fingerprints for index in one.thumbs}:
        # Wide only here: in float32 the thumbnails of a full set would fill 250 MB.
        ours, theirs = (
            np.array([one.thumbs.get(at, _BLANK) for one in fingerprints]).astype(np.float32)
            for at in (index, index + shift)
        )
        total += ours @ theirs.T
        slices += np.outer(ours.any(axis=1), theirs.any(axis=1))
    return total / np.maximum(slices, 1), slices

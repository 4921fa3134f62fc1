"""Finds one volume under two names: copied, rescaled, shifted by a voxel or touched up.

Each slice becomes a 32 × 32 thumbnail with its slow variation taken out, so that what is
left are folds and edges, which differ between people as fingerprints do. Similarity of two
patients is the mean correlation of the thumbnails of the slices that both have, also with
one stack moved by a slice.
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
SLOW = SIDE / 12
"""Blur, in thumbnail pixels, that is taken out: it is alike in all heads."""
SAME = 0.93
"""Similarity from which two volumes are one. Over all pairs of different people: 18 BraTS
volumes at most 0.79, 14 of the LGG set 0.55, single BraTS slices 0.88. A volume against itself
after a linear or power change of scale, a shift of one voxel along one or two axes, or 1 % of
its voxels replaced: at least 0.97."""


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a volume to compare it with others."""

    patient_id: str
    slice_indices: NDArray[np.int32]
    """(n,) positions in the stack of the slices that show anything."""
    thumbs: NDArray[np.float16]
    """(n, SIDE²) of mean about 0 and norm 1."""
    mask_thumbs: NDArray[np.uint8]
    """(n, SIDE²) share of tumour in each thumbnail pixel, in 255ths."""
    digest: str
    """Hash of image and mask: equal where every byte is."""


@dataclass(frozen=True)
class Duplicate:
    """Two names of what seems to be one volume."""

    first: str
    second: str
    similarity: float
    mask_dice: float
    """Overlap of the masks on the thumbnails; NaN where neither has tumour."""
    identical: bool
    """Whether every voxel of image and mask is equal."""
    slices: int
    """Slices that were compared."""


def fingerprint(
    patient_id: str,
    image: NDArray[np.float32],
    mask: NDArray[np.uint8],
    slice_indices: NDArray[np.int32],
) -> Fingerprint:
    """Reduce a volume (S, H, W) and its mask (S, H, W) to what :func:`duplicates` compares."""
    thumbs = np.stack([_thumbnail(one) for one in image])
    shown = np.flatnonzero(thumbs.any(axis=1))
    mask_thumbs = np.stack([_shrink(one.astype(np.float32)) for one in mask]).reshape(len(mask), -1)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16)
    digest.update(mask.tobytes())
    digest.update(slice_indices.tobytes())
    return Fingerprint(
        patient_id,
        slice_indices[shown],
        thumbs[shown].astype(np.float16),
        (255 * mask_thumbs[shown]).round().astype(np.uint8),
        digest.hexdigest(),
    )


def duplicates(fingerprints: Sequence[Fingerprint]) -> tuple[Duplicate, ...]:
    """Find all pairs that reach :data:`SAME`, the most similar first."""
    found = [
        _duplicate(fingerprints[i], fingerprints[j], float(value), shift)
        for shift, similar in _similarities(fingerprints).items()
        for (i, j), value in np.ndenumerate(similar)
        if value >= SAME and (i < j or (shift and i != j))
    ]
    best: dict[frozenset[str], Duplicate] = {}
    for one in sorted(found, key=lambda one: one.similarity):
        best[frozenset((one.first, one.second))] = one
    return tuple(sorted(best.values(), key=lambda one: -one.similarity))


def _thumbnail(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(SIDE²,) of norm 1, or zeros where the slice (H, W) is flat."""
    low, high = np.percentile(image, (1, 99.5))
    if not high > low:
        return np.zeros(SIDE * SIDE, dtype=np.float32)
    small = _shrink(np.clip((image - low) / (high - low), 0, 1).astype(np.float32))
    fast = small - cv2.GaussianBlur(small, (0, 0), SLOW)
    return np.asarray(fast / max(float(np.linalg.norm(fast)), 1e-6), dtype=np.float32).ravel()


def _shrink(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def _similarities(
    fingerprints: Sequence[Fingerprint],
) -> dict[int, NDArray[np.float64]]:
    """For each shift of the second stack: (P, P) mean correlation."""
    by_slice: dict[int, tuple[list[int], list[NDArray[np.float16]]]] = {}
    for patient, one in enumerate(fingerprints):
        for index, thumb in zip(one.slice_indices, one.thumbs, strict=True):
            rows, thumbs = by_slice.setdefault(int(index), ([], []))
            rows.append(patient)
            thumbs.append(thumb)
    stacked = {i: (np.array(r), np.stack(t)) for i, (r, t) in by_slice.items()}
    return {shift: _mean_correlation(stacked, shift, len(fingerprints)) for shift in (0, 1)}


def _mean_correlation(
    stacked: dict[int, tuple[NDArray[np.int64], NDArray[np.float16]]], shift: int, count: int
) -> NDArray[np.float64]:
    total = np.zeros((count, count))
    slices = np.zeros((count, count), dtype=np.int64)
    for index, (rows, thumbs) in stacked.items():
        if index + shift in stacked:
            others, moved = stacked[index + shift]
            # Wide only here: in float32 the thumbnails of a full set would fill 250 MB.
            total[np.ix_(rows, others)] += thumbs.astype(np.float32) @ moved.T.astype(np.float32)
            slices[np.ix_(rows, others)] += 1
    return total / np.maximum(slices, 1)


def _duplicate(first: Fingerprint, second: Fingerprint, value: float, shift: int) -> Duplicate:
    moved = second.slice_indices - shift
    common, ours, theirs = np.intersect1d(first.slice_indices, moved, return_indices=True)
    a = first.mask_thumbs[ours].astype(np.float64)
    b = second.mask_thumbs[theirs].astype(np.float64)
    tumour = float(a.sum() + b.sum())
    return Duplicate(
        first.patient_id,
        second.patient_id,
        similarity=min(value, 1.0),
        mask_dice=float(2 * np.minimum(a, b).sum() / tumour) if tumour else float("nan"),
        identical=first.digest == second.digest,
        slices=len(common),
    )

"""Is this image FLAIR? Measured from the pixels, never believed from a name.

Two figures of a slice tell, for every scanner and scale, because both are ratios:

``lesion_z``
    How much brighter the tumour is than the other tissue: (median inside the mask −
    median outside) / (interquartile range outside / 1.349). Oedema is bright on FLAIR and
    T2, and not on T1.
``csf_brightness``
    Whether the extremes of the *symmetric* tissue are bright (towards 1) or dark (towards
    −1): (p98 + p2 − 2·p50) / (p98 − p2) of the smaller of each pixel and its mirror pixel.
    Ventricles and sulci lie on both sides, a tumour on one, so that a tumour hardly
    counts even where no mask is known. CSF is the bright extreme of T2 and the dark one
    of FLAIR.

Where all channels are at hand two more are compared between them:

``csf_z``
    Brightness, in the same unit as ``lesion_z``, of the tissue that is bright on the
    T2-like channel and dark on the T1-like one, which is CSF.
``enhancement_z``
    Enhancing minus necrotic tumour; only contrast agent makes it large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Region = NDArray[np.bool_]

MIN_TISSUE = 0.08
"""Smallest share of the frame that tissue must fill for a slice to say anything."""
MIN_LESION = 0.0005
"""Smallest share of the frame (29 px of 240²) that a lesion must fill to be measured."""
RIM = 0.1
"""Depth cut off the outline, in √area: takes skull and scalp away where they are present."""
BLUR = 2 / 240
"""Blur before comparing with the mirror image, in sides: hemispheres match only roughly."""


@dataclass(frozen=True)
class Appearance:
    """How one channel looks; NaN where the slice cannot tell."""

    lesion_z: float
    csf_brightness: float


UNKNOWN = Appearance(float("nan"), float("nan"))


def tissue(image: Image) -> tuple[Region, Region]:
    """Find the head and what lies deep in it, in a slice (H, W) of any scale.

    Returns:
        (H, W) head, filled; and (H, W) its inside, without skull and scalp. Both are empty
        where the slice shows too little.
    """
    low, high = np.percentile(image, (1, 99))
    empty = np.zeros(image.shape, dtype=np.bool_)
    if not high > low:
        return empty, empty
    smooth = cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape))
    head = _largest_filled(smooth > low + 0.12 * (high - low))
    area = int(head.sum())
    if area < MIN_TISSUE * image.size:
        return empty, empty
    framed = np.pad(head.astype(np.uint8), 1)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return head, depth > RIM * np.sqrt(area)


def appearance(
    image: Image, head: Region, inside: Region, lesion: Region, mirror_axis: int
) -> Appearance:
    """Measure a slice.

    Args:
        image: (H, W) in any units.
        head: (H, W) from :func:`tissue`, of this or of another channel of the slice.
        inside: likewise.
        lesion: (H, W), all False where unknown.
        mirror_axis: axis of the slice along which left and right lie.
    """
    healthy = inside & ~lesion
    if healthy.sum() < MIN_TISSUE * image.size / 4:
        return UNKNOWN
    middle, spread = scale_of(image[healthy])
    enough = lesion.sum() >= MIN_LESION * image.size
    return Appearance(
        lesion_z=float((np.median(image[lesion]) - middle) / spread) if enough else float("nan"),
        csf_brightness=_symmetric_tail(image, head, healthy, mirror_axis),
    )


def scale_of(values: NDArray[np.float32]) -> tuple[float, float]:
    """Median, and interquartile range / 1.349 (the σ of a normal distribution).

    The range is NaN where it is 0: nothing can be measured in it.
    """
    quarter, middle, three_quarters = np.percentile(values, (25, 50, 75))
    spread = float(three_quarters - quarter) / 1.349
    return float(middle), spread if spread > 0 else float("nan")


def median_appearance(measured: Sequence[Appearance]) -> Appearance:
    """The median of each figure over those that know it."""
    return Appearance(
        median([one.lesion_z for one in measured]),
        median([one.csf_brightness for one in measured]),
    )


def median(values: Sequence[float]) -> float:
    """Median of the values that are not NaN; NaN where there are none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.median(known)) if known else float("nan")


def _largest_filled(region: Region) -> Region:
    """The largest connected part, its holes filled."""
    outlines, _ = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled = np.zeros(region.shape, dtype=np.uint8)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(np.bool_)


def _symmetric_tail(image: Image, head: Region, healthy: Region, mirror_axis: int) -> float:
    smooth = cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape))
    mirror = _mirror_indices(head, mirror_axis)
    both = healthy & np.take(healthy, mirror, mirror_axis)
    if both.sum() < MIN_TISSUE * image.size / 8:
        return float("nan")
    symmetric = np.minimum(smooth, np.take(smooth, mirror, mirror_axis))[both]
    low, middle, high = np.percentile(symmetric, (2, 50, 98))
    return float((high + low - 2 * middle) / (high - low)) if high > low else float("nan")


def _mirror_indices(head: Region, axis: int) -> NDArray[np.intp]:
    """Index of each row (or column)'s mirror partner about the middle of the head."""
    filled = np.flatnonzero(head.any(axis=1 - axis))
    positions = filled[0] + filled[-1] - np.arange(head.shape[axis])
    return np.asarray(np.clip(positions, 0, head.shape[axis] - 1))


@dataclass(frozen=True)
class ImageIdentity:
    """Whether one volume looks like FLAIR."""

    ok: bool
    reason: str
    """One line with the figures that decided."""
    lesion_z: float
    csf_brightness: float
    slices: int
    """How many slices were measured."""


CSF_BRIGHT = 0.25
"""``csf_brightness`` above this is T2. Medians over the 86 BraTS 2020 patients with slices
at hand: FLAIR −0.30, T1 −0.28, T1ce −0.30, T2 +0.54. Single slices: 94 % of FLAIR below, 88 % of
T2 above. Whole volumes of FLAIR: 18 of BraTS at most 0.19, 14 of the LGG set at most 0.15."""
LESION_BRIGHT = 0.7
"""``lesion_z`` of FLAIR is above this. Medians over patients: BraTS FLAIR 4.0, T2 2.3, T1 −0.6,
T1ce −0.5; LGG set FLAIR 2.3, T1 before contrast −0.2, after −0.1."""
MAX_SLICES = 15
"""Slices of a volume that are measured; a median needs no more."""


def image_identity(
    image: NDArray[np.float32], mask: NDArray[np.uint8] | None = None, *, mirror_axis: int = 0
) -> ImageIdentity:
    """Judge one volume by itself, as at prediction, where no other channel is known.

    Without a mask only T2 can be told from FLAIR: T1 differs in the tumour alone. One
    volume is judged more leniently than a set: ``ok`` is False where it is clearly not FLAIR.

    Args:
        image: (S, H, W) in any units.
        mask: (S, H, W) in {0, 1}, or None where unknown.
        mirror_axis: axis of a slice along which left and right lie.
    """
    measured = [
        _measure(image[index], None if mask is None else mask[index] > 0, mirror_axis)
        for index in spread_indices(len(image), MAX_SLICES)
    ]
    found = median_appearance(measured)
    slices = sum(not np.isnan(one.csf_brightness) for one in measured)
    ok, reason = _judge(found, 0.0)
    return ImageIdentity(ok, reason, found.lesion_z, found.csf_brightness, slices)


def set_identity(volumes: Sequence[ImageIdentity]) -> ImageIdentity:
    """Judge a set by the medians over its volumes: stricter than one volume can be judged."""
    found = median_appearance([Appearance(v.lesion_z, v.csf_brightness) for v in volumes])
    ok, reason = _judge(found, LESION_BRIGHT)
    slices = sum(volume.slices for volume in volumes)
    return ImageIdentity(ok, reason, found.lesion_z, found.csf_brightness, slices)


def _judge(found: Appearance, lesion_limit: float) -> tuple[bool, str]:
    csf = f"CSF brightness {found.csf_brightness:+.2f} (FLAIR: below {CSF_BRIGHT:+.2f})"
    lesion = f"tumour {found.lesion_z:+.1f} σ from the brain (FLAIR: above {lesion_limit:+.1f})"
    if found.csf_brightness > CSF_BRIGHT:
        return False, f"looks like T2, not FLAIR: {csf}"
    if found.lesion_z < lesion_limit:
        return False, f"looks like T1, not FLAIR: {lesion}"
    if np.isnan(found.csf_brightness):
        return True, "shows too little tissue to be judged"
    return True, csf if np.isnan(found.lesion_z) else f"{csf}, {lesion}"


def _measure(image: Image, lesion: Region | None, mirror_axis: int) -> Appearance:
    plain = np.ascontiguousarray(image, dtype=np.float32)
    head, inside = tissue(plain)
    if lesion is None:
        lesion = np.zeros(image.shape, dtype=np.bool_)
    return appearance(plain, head, inside, lesion, mirror_axis)


def spread_indices(count: int, wanted: int) -> NDArray[np.intp]:
    """Up to ``wanted`` positions, evenly over the middle 70 % of ``count``."""
    first, last = int(0.15 * count), max(int(0.85 * count) - 1, int(0.15 * count))
    return np.unique(np.linspace(first, last, wanted).round().astype(np.intp))

"""What one slice tells about each of its channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seglab.data.identity import UNKNOWN, Appearance, Region, appearance, scale_of, tissue

CSF_SHARE = 0.03
"""Share of the tissue taken as CSF: ventricles and the deeper sulci fill about this much."""
MIN_PART_PX = 20
"""Smallest tumour part whose median is used."""
ENHANCING = ("enhancing", "label 4")
NECROSIS = ("necrosis", "label 1")


@dataclass(frozen=True)
class Probe:
    """One slice measured on all C channels; see :mod:`seglab.data.identity` for the figures."""

    appearances: tuple[Appearance, ...]
    enhancement_z: NDArray[np.float64]
    """(C,) NaN where either part of the tumour is too small."""
    csf_z: NDArray[np.float64]
    """(C, C, C) brightness on channel c of the tissue that is bright on a and dark on b."""


def probe(
    image: NDArray[np.float32],
    planes: NDArray[np.uint8],
    plane_names: tuple[str, ...],
    mirror_axis: int,
) -> Probe:
    """Measure a slice: image (C, H, W), NaN where a channel is absent, and planes (P, H, W)."""
    lesion: Region = np.asarray(planes.any(axis=0))
    present = [not np.isnan(channel).any() for channel in image]
    blank = np.zeros(lesion.shape, dtype=np.bool_)
    regions = [
        tissue(channel) if ok else (blank, blank)
        for channel, ok in zip(image, present, strict=True)
    ]
    return Probe(
        tuple(
            appearance(channel, head, inside, lesion, mirror_axis) if inside.any() else UNKNOWN
            for channel, (head, inside) in zip(image, regions, strict=True)
        ),
        _enhancement(image, planes, plane_names, [inside & ~lesion for _, inside in regions]),
        _csf(image, np.logical_and.reduce([inside for _, inside in regions]) & ~lesion),
    )


def _enhancement(
    image: NDArray[np.float32],
    planes: NDArray[np.uint8],
    plane_names: tuple[str, ...],
    healthy: list[Region],
) -> NDArray[np.float64]:
    parts = [
        planes[plane_names.index(name)] > 0
        for names in (ENHANCING, NECROSIS)
        for name in names
        if name in plane_names
    ]
    unknown = np.full(len(image), np.nan)
    if len(parts) != 2 or min(int(part.sum()) for part in parts) < MIN_PART_PX:
        return unknown
    for index, channel in enumerate(image):
        if healthy[index].any():
            bright, dark = (float(np.median(channel[part])) for part in parts)
            unknown[index] = (bright - dark) / scale_of(channel[healthy[index]])[1]
    return unknown


def _csf(image: NDArray[np.float32], healthy: Region) -> NDArray[np.float64]:
    channels = len(image)
    out = np.full((channels, channels, channels), np.nan)
    values = image[:, healthy]
    count = int(CSF_SHARE * values.shape[1])
    if channels < 4 or count < MIN_PART_PX:
        return out
    scales = [scale_of(channel) for channel in values]
    ranks = values.argsort(axis=1).argsort(axis=1)
    for bright in range(channels):
        for dark in set(range(channels)) - {bright}:
            csf = np.argpartition(ranks[dark] - ranks[bright], count)[:count]
            for channel, (middle, spread) in enumerate(scales):
                out[bright, dark, channel] = (np.median(values[channel, csf]) - middle) / spread
    return out

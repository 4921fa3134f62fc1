"""Where the cached window lies in the native frame, and the way there and back.

A box is a window of native pixels; resizing maps pixel areas onto pixel areas, as OpenCV does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.data.volume import Scalar, turn

if TYPE_CHECKING:
    from seglab.data.cache import CachedPatient, CacheSettings

MULTIPLE = 16  # of cropped sides: four halvings, as the U-Net has; networks with more pad
FULL = 2**16 - 1  # level of a pixel that the mask covers entirely

UInt8 = NDArray[np.uint8]
Shape = tuple[int, int]


class Box(NamedTuple):
    """A window in native pixels; it may reach outside the frame, where all is zero."""

    y0: int
    x0: int
    height: int
    width: int

    def inside(self, frame: Box) -> Box:
        """The same window as seen from the first pixel of another."""
        return self._replace(y0=self.y0 - frame.y0, x0=self.x0 - frame.x0)


class Extent(NamedTuple):
    """What decides a patient's window."""

    frame: Shape  # (H, W)
    content: Box  # around its brain
    pixel: tuple[float, float] = (1.0, 1.0)  # its height and width, in one unit

    def length(self, axis: int, cached: int, size: int) -> int:
        """Native pixels behind so many cached ones, of ``size`` along the frame's longer side.

        They are whole, so that cutting needs no resampling.
        """
        side = max(length * unit for length, unit in zip(self.frame, self.pixel, strict=True))
        return max(1, round(cached * side / size / self.pixel[axis]))


def bounding_box(inside: NDArray[np.bool_]) -> Box:
    """Smallest box around the True pixels of any slice of (S, H, W); empty if there are none."""
    x0, y0, width, height = cv2.boundingRect(inside.any(axis=0).view(np.uint8))
    if not width:
        y0, x0 = inside.shape[1] // 2, inside.shape[2] // 2
    return Box(y0, x0, height, width)


def cached_shape(extents: Iterable[Extent], settings: CacheSettings) -> Shape:
    """Return (h, w) of the cached slices: one size for all patients, with all of any brain."""
    size = settings.image_size
    if settings.crop == "none":
        return size, size
    sides = [min(MULTIPLE, size)] * 2
    for extent in extents:
        for axis, needed in enumerate(extent.content[2:]):
            while sides[axis] < size and extent.length(axis, sides[axis], size) < needed:
                sides[axis] = min(sides[axis] + MULTIPLE, size)
    return sides[0], sides[1]


def place(extent: Extent, shape: Shape, settings: CacheSettings) -> Box:
    """Return the patient's window: around its brain, or the whole square frame."""
    size, content = settings.image_size, extent.content
    height, width = (extent.length(axis, cached, size) for axis, cached in enumerate(shape))
    if settings.crop == "none":
        content = Box(0, 0, *extent.frame)
    y0, x0 = content.y0 - (height - content.height) // 2, content.x0 - (width - content.width) // 2
    return Box(y0, x0, height, width)


def crop(stack: NDArray[Scalar], box: Box) -> NDArray[Scalar]:
    """Take the box out of (S, H, W); zero where it reaches outside."""
    inside, frame = _overlap(box, stack.shape[1:])
    found = stack[:, *frame]
    if found.shape[1:] == box[2:]:
        return np.array(found, order="C")
    out = np.zeros((len(stack), box.height, box.width), stack.dtype)
    out[:, *inside] = found
    return out


def uncrop(window: NDArray[Scalar], box: Box, frame_shape: Shape) -> NDArray[Scalar]:
    """Put (S, height, width) where its box lies in a frame of zeros (S, H, W)."""
    out = np.zeros((len(window), *frame_shape), window.dtype)
    inside, frame = _overlap(box, frame_shape)
    out[:, *frame] = window[:, *inside]
    return out


def resize_images(stack: UInt8, shape: Shape) -> UInt8:
    """Resize (S, H, W) uint8 to (S, h, w): averages areas where it shrinks."""
    if stack.shape[1:] == shape:
        return stack
    out = np.empty((len(stack), *shape), np.uint8)
    _resize_into(out, stack)
    return out


def resize_masks(stack: UInt8, shape: Shape) -> UInt8:
    """Resize masks (S, H, W) in {0, 1} to (S, h, w) without losing or shifting area.

    Of each slice, the pixels covered most are marked: as many as the area amounts to, and at
    least one. Under the half-covered rule small lesions vanish, or lose 15 % of their area.
    """
    if stack.shape[1:] == shape:
        return stack
    out = np.zeros((len(stack), *shape), np.uint8)
    for index in np.flatnonzero(stack.view(np.bool_).any(axis=(1, 2))):
        coverage = np.empty(shape, np.uint16)
        _resize_into(coverage[None], stack[index : index + 1] * np.uint16(FULL))
        # Not the sum of the coverage: interpolating to a finer grid does not keep it.
        area = np.count_nonzero(stack[index]) * coverage.size / stack[index].size
        _mark_most_covered(out[index], coverage, max(1, round(area)))
    return out


def to_native(maps: NDArray[np.float32], patient: CachedPatient) -> NDArray[np.float32]:
    """Bring maps (n, h, w) of cached slices to the native grid (S, H, W): bilinear, 0 outside."""
    box = patient.box
    if maps.shape[1:] == box[2:]:
        return turned(uncrop(maps, box, patient.frame), patient)
    out = np.zeros((len(maps), *patient.frame), np.float32)
    inside, frame = _overlap(box, patient.frame)
    window = np.empty(box[2:], np.float32)
    for source, target in zip(maps, out[:, *frame], strict=True):
        if source.any():  # slices without brain are common
            _resize_into(window[None], source[None])
            target[:] = window[inside]
    return turned(out, patient)


def turned(stack: NDArray[Scalar], patient: CachedPatient) -> NDArray[Scalar]:
    """Turn the whole slices of a plane (n, H', W') to the native ones (S, H, W)."""
    return np.ascontiguousarray(turn(stack, *patient.axes))


def _overlap(
    box: Box, frame_shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    inside, frame = [], []
    for start, length, limit in zip(box[:2], box[2:], frame_shape, strict=True):
        first = max(start, 0)
        last = max(first, min(start + length, limit))
        frame.append(slice(first, last))
        inside.append(slice(first - start, last - start))
    return (inside[0], inside[1]), (frame[0], frame[1])


def _resize_into(out: NDArray[Any], stack: NDArray[Any]) -> None:
    height, width = out.shape[1:]
    shrinks = height * width < stack.shape[1] * stack.shape[2]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    for target, source in zip(out, stack, strict=True):
        cv2.resize(source, (width, height), dst=target, interpolation=how)


def _mark_most_covered(out: UInt8, coverage: NDArray[np.uint16], wanted: int) -> None:
    """Mark the most covered pixels of (h, w); of equals, those with the fullest surroundings."""
    around = cv2.boxFilter(
        coverage, cv2.CV_32S, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    touched = np.flatnonzero(coverage)
    # In whole numbers and a stable order, so that it falls out alike on every machine.
    rank = coverage.reshape(-1)[touched].astype(np.int64) * (25 * FULL + 1)
    rank += around.reshape(-1)[touched]
    out.reshape(-1)[touched[np.argsort(-rank, kind="stable")[:wanted]]] = 1

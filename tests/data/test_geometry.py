from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import hypothesis
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import ndimage

from seglab.data import geometry
from seglab.data.cache import CacheSettings
from seglab.data.geometry import Box, Extent, crop, place, resize_images, resize_masks, uncrop


def to_native(maps: np.ndarray, box: Box, frame: tuple[int, int]) -> np.ndarray:
    """As a cached patient has it, of which geometry looks at three fields."""
    patient: Any = SimpleNamespace(box=box, frame=frame, axes=("SLP", "SLP"))
    return geometry.to_native(maps.astype(np.float32), patient)


def settings(size: int, crop: Literal["brain", "none"] = "brain") -> CacheSettings:
    return CacheSettings(size, crop, "zscore", "volume")


def blobs(seed: int, side: int = 120) -> np.ndarray:
    """Smooth random masks (4, side, side), some of a few pixels."""
    noise = np.random.default_rng(seed).normal(size=(4, side, side))
    smooth = np.stack([ndimage.gaussian_filter(noise[i], 2 * i + 2) for i in range(4)])
    return (smooth > 2 * smooth.std((1, 2), keepdims=True)).astype(np.uint8)


@st.composite
def extents(draw: st.DrawFn) -> Extent:
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    content = Box(y0, x0, draw(st.integers(0, height - y0)), draw(st.integers(0, width - x0)))
    return Extent((height, width), content)


@given(
    extents=st.lists(extents(), min_size=1, max_size=4),
    size=st.integers(32, 400),
    crop=st.sampled_from(["brain", "none"]),
)
def test_every_window_holds_all_of_its_patient(
    extents: list[Extent], size: int, crop: Literal["brain", "none"]
) -> None:
    shape = geometry.cached_shape(extents, settings(size, crop))
    assert max(shape) <= size
    assert all(length % 16 == 0 or length == size for length in shape)
    for extent in extents:
        box = place(extent, shape, settings(size, crop))
        content = extent.content if crop == "brain" else Box(0, 0, *extent.frame)
        assert box.y0 <= content.y0
        assert box.x0 <= content.x0
        assert box.y0 + box.height >= content.y0 + content.height
        assert box.x0 + box.width >= content.x0 + content.width


def test_windows_worked_by_hand() -> None:
    """The scale is that of the whole frame; without crop the window is the square around it."""
    extent = Extent((240, 240), Box(60, 50, 140, 170))
    shape = geometry.cached_shape([extent], settings(128))
    assert shape == (80, 96)
    assert place(extent, shape, settings(128)) == Box(55, 45, 150, 180)
    uneven = Extent((200, 240), Box(60, 50, 10, 10))
    assert geometry.cached_shape([uneven], settings(100, "none")) == (100, 100)
    assert place(uneven, (100, 100), settings(100, "none")) == Box(-20, 0, 240, 240)
    inside = np.zeros((3, 10, 12), bool)
    assert geometry.bounding_box(inside)[2:] == (0, 0)
    inside[0, 2, 5] = inside[2, 7, 3] = True
    assert geometry.bounding_box(inside) == Box(2, 3, 6, 3)


@given(box=st.builds(Box, *[st.integers(-9, 9)] * 2, *[st.integers(0, 15)] * 2))
def test_cut_and_paste_agree_with_a_padded_frame(box: Box) -> None:
    frame = np.arange(1, 2 * 6 * 7 + 1).reshape(2, 6, 7)
    padded = np.pad(frame, ((0, 0), (30, 30), (30, 30)))
    y0, x0 = box.y0 + 30, box.x0 + 30
    expected = padded[:, y0 : y0 + box.height, x0 : x0 + box.width]
    assert (crop(frame, box) == expected).all()
    kept = np.zeros_like(padded)
    kept[:, y0 : y0 + box.height, x0 : x0 + box.width] = expected
    assert (uncrop(crop(frame, box), box, (6, 7)) == kept[:, 30:36, 30:37]).all()


@pytest.mark.parametrize("size", [64, 100, 300])
def test_a_ramp_returns_to_the_pixels_it_came_from(size: int) -> None:
    """Images go by areas and maps return bilinearly: a plane must survive, unshifted."""
    y, x = np.mgrid[:200, :200]
    plane = (40 + 0.4 * y + 0.6 * x).round().astype(np.uint8)[None]
    box = Box(0, 0, 200, 200)
    back = to_native(resize_images(plane, (size, size)), box, (200, 200))
    error = (back - plane)[0, 4:-4, 4:-4]
    assert np.abs(error).max() < 1.5
    assert abs(error.mean()) < 0.15  # half a pixel of shift would be 0.5


@given(seed=st.integers(0, 10_000), size=st.sampled_from([48, 64, 90, 120]))
@hypothesis.settings(max_examples=30)
def test_masks_go_there_and_back_within_a_cached_pixel(seed: int, size: int) -> None:
    masks, scale = blobs(seed), 120 / size
    box = Box(40, 60, 120, 120)
    there = resize_masks(crop(uncrop(masks, box, (200, 200)), box), (size, size))
    back = to_native(there, box, (200, 200)) >= 0.5
    truth = uncrop(masks, box, (200, 200)) > 0
    for ours, theirs in zip(back, truth, strict=True):
        boundary = theirs ^ ndimage.binary_erosion(theirs, border_value=1)
        far = ndimage.distance_transform_edt(~boundary)
        assert far[ours ^ theirs].max(initial=0) <= scale


@given(seed=st.integers(0, 10_000), size=st.sampled_from([40, 64, 96, 150]))
@example(seed=871, size=150)
def test_masks_keep_their_area_and_never_vanish(seed: int, size: int) -> None:
    masks = blobs(seed)
    for before, after in zip(masks, resize_masks(masks, (size, size)), strict=True):
        assert before.any() == after.any()
        wanted = max(before.sum() * (size / 120) ** 2, float(before.any()))
        assert abs(after.sum() - wanted) <= 0.5 + 0.02 * wanted


@pytest.mark.parametrize(("side", "size"), [(240, 128), (1024, 32)])
def test_single_pixels_stay_where_they_are(side: int, size: int) -> None:
    stream = np.random.default_rng(0)
    for y, x in stream.integers(0, side, (50, 2)):
        mask = np.zeros((1, side, side), np.uint8)
        mask[0, y, x] = 1
        small = resize_masks(mask, (size, size))
        (found,) = np.argwhere(small[0])
        assert small.sum() == 1
        assert np.abs((found + 0.5) * side / size - (np.array([y, x]) + 0.5)).max() <= side / size


@pytest.mark.parametrize("box", [Box(-10, 15, 60, 60), Box(50, 50, 60, 60), Box(200, 0, 60, 60)])
def test_maps_are_zero_outside_the_window_and_kept_inside(box: Box) -> None:
    maps = np.stack([np.full((32, 32), 0.7, np.float32), np.zeros((32, 32), np.float32)])
    native = to_native(maps, box, (100, 90))
    expected = uncrop(np.full((1, 60, 60), 0.7, np.float32), box, (100, 90))
    np.testing.assert_allclose(native[:1], expected, atol=1e-6)
    assert not native[1].any()

"""Figures of an image: closed forms, invariance, heads with and without a skull."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seglab.data.identity import RIM, SKULL, Figures, find_head, measure

SIDE = 120
OEDEMA, ENHANCING, MERGED = 2, 3, 4


def disk(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.hypot(y - row, x - column) <= radius


def brain(spots: float, lesion: float = 100.0, core: float = 100.0) -> tuple[np.ndarray, ...]:
    """A noisy brain of mean 100 and σ 5, a spot on either side (axis 0), a lesion on one."""
    image = np.zeros((SIDE, SIDE), np.float32)
    inside = disk(60, 60, 45)
    image[inside] = np.random.default_rng(0).normal(100, 5, inside.sum())
    for row in (48, 72):
        image[disk(row, 60, 6)] = spots
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disk(45, 80, 9)] = OEDEMA
    labels[disk(45, 80, 4)] = ENHANCING
    image[labels > 0] = lesion
    image[labels == ENHANCING] = core
    return image, labels


def look(image: np.ndarray, labels: np.ndarray | None = None, axis: int = 0) -> Figures:
    stack = None if labels is None else np.stack([labels] * 3)
    return measure(np.stack([image] * 3)[None], ("flair",), stack, mirror_axis=axis)["flair"]


def test_head_is_found_with_its_holes() -> None:
    head, depth = find_head(brain(spots=0)[0])
    true = disk(60, 60, 45)
    assert 2 * (head & true).sum() / (head.sum() + true.sum()) > 0.97
    assert head[48, 60]
    # A tenth of √area = 8 px are cut off all around.
    assert not (depth > RIM)[~disk(60, 60, 40)].any()
    assert (depth > RIM)[disk(60, 60, 34)].all()


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((64, 64), 7.0), np.eye(64)])
def test_slice_without_a_head_tells_nothing(image: np.ndarray) -> None:
    figures = look(image.astype(np.float32))
    assert figures.slices == 0
    assert all(np.isnan(value) for value in figures[:5])


def test_without_a_spread_there_is_no_unit_to_measure_in() -> None:
    image, labels = brain(spots=100, lesion=50)
    image[disk(60, 60, 45) & (labels == 0)] = 100
    assert np.isnan(look(image, labels).oedema_z)


def test_tumour_is_measured_in_deviations_of_healthy_tissue() -> None:
    # (120 − 100) / 5, but for the spots, which narrow the interquartile range a little.
    image, labels = brain(spots=100, lesion=120, core=160)
    found = look(image, labels)
    assert found.oedema_z == pytest.approx(4, rel=0.1)
    assert found.enhancement_z == pytest.approx(8, rel=0.1)
    assert found.bright_tail == pytest.approx(12, rel=0.1)
    unlabelled = look(image)
    assert np.isnan(unlabelled.oedema_z)
    assert np.isnan(unlabelled.enhancement_z)
    assert unlabelled.bright_tail > 8


def test_edge_of_a_merged_mask_stands_for_the_oedema() -> None:
    image, labels = brain(spots=100, lesion=120, core=40)
    found = look(image, np.where(labels > 0, MERGED, 0).astype(np.uint8))
    assert found.oedema_z == pytest.approx(4, rel=0.1)
    assert np.isnan(found.enhancement_z)


def test_symmetric_spots_decide_and_a_lesion_on_one_side_does_not() -> None:
    bright, dark = (look(brain(spots)[0]).csf_brightness for spots in (180, 20))
    assert bright > 0.5
    assert dark < -0.5
    with_lesion = look(brain(20, lesion=250)[0]).csf_brightness
    assert with_lesion == pytest.approx(dark, abs=0.1)


def test_mirror_axis_is_that_of_left_and_right() -> None:
    image, _ = brain(180)
    across = look(np.ascontiguousarray(image.T), axis=1)
    assert across.csf_brightness == pytest.approx(look(image).csf_brightness, abs=1e-3)


@settings(max_examples=25)
@given(scale=st.floats(0.01, 100), offset=st.floats(-50, 50), spots=st.sampled_from([30.0, 170.0]))
def test_scale_and_offset_of_the_scanner_change_nothing(
    scale: float, offset: float, spots: float
) -> None:
    image, labels = brain(spots, lesion=130, core=150)
    plain = look(image, labels)
    moved = look((scale * (image + offset)).astype(np.float32), labels)
    np.testing.assert_allclose(moved, plain, rtol=0.02, atol=0.02)


def test_each_modality_is_measured_with_the_head_of_the_first() -> None:
    image, labels = brain(180, lesion=120)
    noise = np.random.default_rng(0).normal(0, 1, image.shape)
    found = measure(np.stack([image, noise])[:, None], ("t2", "flair"), labels[None])
    assert found["t2"] == look(image, labels)._replace(slices=1)
    assert abs(found["flair"].oedema_z) < 0.5


def head(skull: bool, size: int = 96, bone: float = 0.3) -> np.ndarray:
    """Five slices of brain, about 1, and around it CSF-free bone and scalp of 1.5."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=radius.shape), 2)
    image = np.where(radius < 0.8, 1 + 0.1 * noise / noise.std(), 0)
    if skull:
        image = np.where(radius < 0.8, image, np.where(radius < 0.9, bone, 1.5))
        image[radius > 1] = 0
    return np.stack([image] * 5).astype(np.float32)


def skull_fall(image: np.ndarray) -> float:
    return measure(image[None], ("t1",))["t1"].skull_fall


@given(scale=st.floats(0.01, 3000), shift=st.floats(-500, 500), size=st.integers(64, 160))
def test_only_the_skull_makes_brightness_fall(scale: float, shift: float, size: int) -> None:
    assert skull_fall(scale * head(True, size) + shift) > 2 * SKULL
    assert skull_fall(scale * head(False, size) + shift) < SKULL / 2


def test_the_fall_is_from_scalp_to_bone() -> None:
    for bone in (0.1, 0.5):
        assert skull_fall(head(True, 160, bone)) == pytest.approx(1.5 - bone, abs=0.1)

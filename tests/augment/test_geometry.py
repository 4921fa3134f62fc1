"""Geometry against closed forms, albumentations, and itself at another image size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from seglab.augment.elastic import DisplacementField, Elastic, low_rank_root
from seglab.augment.geometry import Affine, Warp
from seglab.augment.transform import Frame
from tests.augment.slices import apply, augmenter, brains, frame

GEOMETRIC = ["mirror", "front_back", "flips", "affine", "elastic", "geometric", "grid"]
SIZES = [(96, 2.5), (240, 1.0)]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_image_and_mask_stay_aligned(name: str) -> None:
    _, masks = brains(30)
    images = (255 * masks).repeat(1, 3, 1, 1)
    new_images, new_masks = apply(augmenter(name, frame(neighbours=3)), (images, masks))
    assert not torch.equal(new_masks, masks)
    # Bilinear grey against nearest neighbour: they may differ where grey is near the middle.
    sure = (new_images[:, 1:2] - 128).abs() > 70
    assert torch.equal((new_images[:, 1:2] > 128)[sure], (new_masks > 0)[sure])
    assert (~sure).float().mean() < 0.03
    assert torch.equal(new_images[:, 0], new_images[:, 2])


@pytest.mark.parametrize("axis", [0, 1])
def test_the_mirror_swaps_left_and_right(axis: int) -> None:
    images, masks = brains(2)
    given = replace(frame(), mirror_axis=axis)
    new_images, new_masks = apply(augmenter("mirror", given), (images, masks))
    assert torch.equal(new_images, images.flip(2 + axis))
    assert torch.equal(new_masks, masks.flip(2 + axis))
    other = apply(augmenter("front_back", given), (images, masks))
    assert torch.equal(other[0], images.flip(3 - axis))


def source_mm(warp: Warp, given: Frame, seed: int) -> torch.Tensor:
    """Where each pixel comes from, in mm from the frame's centre: (2, side, side)."""
    drawn = warp.draw(np.random.default_rng(seed))
    assert drawn is not None
    images = torch.zeros(1, 1, *given.hw)
    grid = warp.source(images, {name: value[None] for name, value in drawn.items()})
    return grid[0].permute(2, 0, 1) * given.hw[0] * given.pixel_mm / 2


@pytest.mark.parametrize(
    ("affine", "elastic"),
    [
        (Affine(15, 0.15, 8), None),
        (None, Elastic(4, 24)),
        (Affine(15, 0.15, 8), Elastic(4, 24)),
    ],
)
def test_a_draw_moves_by_the_same_millimetres_at_every_size(
    affine: Affine | None, elastic: Elastic | None
) -> None:
    for seed in range(5):
        maps = []
        for side, pixel_mm in SIZES:
            given = Frame((side, side), pixel_mm)
            maps.append(source_mm(Warp(given, affine, elastic), given, seed))
        there = functional.interpolate(maps[1][None], [96, 96], mode="bilinear")[0]
        # The field's outer nodes lie on the outermost pixels, which are not the same place.
        assert (maps[0] - there).abs().max() < 0.5
        assert (maps[0] - there).square().mean().sqrt() < 0.1


def fields(count: int, side: int, pixel_mm: float, sd_mm: float, sigma_mm: float) -> np.ndarray:
    """Displacements (count, 2, side, side) in mm."""
    field = DisplacementField(Elastic(sd_mm, sigma_mm), Frame((side, side), pixel_mm))
    nodes = np.stack([field.draw(np.random.default_rng(i)) for i in range(count)])
    size = [side, side]
    fine = functional.interpolate(
        torch.from_numpy(nodes), size, mode="bilinear", align_corners=True
    )
    return fine.numpy() * pixel_mm


def test_displacements_have_the_stated_spread_and_smoothness() -> None:
    found = fields(600, 120, 2.0, sd_mm=4, sigma_mm=20)
    assert abs(found.mean()) < 0.1
    assert found.std() == pytest.approx(4, rel=0.03)
    assert found[..., 0].std() == pytest.approx(4, rel=0.06)  # at the edges as everywhere
    for distance_mm in (10, 20, 40):
        lag = distance_mm // 2
        product = (found[..., lag:] * found[..., :-lag]).mean() / found.var()
        assert product == pytest.approx(np.exp(-((distance_mm / 40) ** 2)), abs=0.03)
    assert abs(np.corrcoef(found[:, 0].ravel(), found[:, 1].ravel())[0, 1]) < 0.02


def test_low_rank_root_gives_back_the_covariance() -> None:
    distance = np.subtract.outer(np.arange(100.0), np.arange(100.0))
    covariance = np.exp(-((distance / 16) ** 2))
    root = low_rank_root(covariance)
    assert root.shape[1] < 20
    lost = covariance.diagonal() - (root**2).sum(axis=1)
    assert lost.min() > -1e-12
    assert lost.max() <= 0.01
    identity = np.eye(7)
    np.testing.assert_allclose(low_rank_root(identity) @ low_rank_root(identity).T, identity)


@pytest.mark.parametrize("limits", [(30.0, 0.0), (0.0, 0.3)])
def test_rotation_and_scale_equal_albumentations(limits: tuple[float, float]) -> None:
    import albumentations as A

    given = frame((60, 90))
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 1), np.uint8)
    warp = Warp(given, Affine(*limits, 0.0), None)
    matrix = warp.draw(np.random.default_rng(5))["matrix"]
    planes = torch.from_numpy(image[None, None, ..., 0]).float()
    ours, mask = warp.apply(planes, planes, {"matrix": matrix[None]})
    forward = np.linalg.inv(matrix[:, :2].astype(float))
    scale = float(np.sqrt(np.linalg.det(forward)))
    angle = float(np.degrees(np.arctan2(forward[0, 1], forward[0, 0])))  # counter-clockwise
    theirs = A.Affine(rotate=(angle, angle), scale=(scale, scale), p=1)
    expected = theirs(image=image, mask=image[..., 0])
    # OpenCV places samples on a raster of 1/32 pixel.
    assert np.abs(ours[0, 0].numpy() - expected["image"][..., 0]).mean() < 1
    assert np.mean(mask[0, 0].numpy() != expected["mask"]) < 0.01


def test_a_shift_moves_by_the_drawn_distance() -> None:
    given = frame((50, 70), pixel_mm=2.0)
    images = torch.zeros(1, 1, 50, 70)
    images[..., 20:24, 30:33] = 200
    warp = Warp(given, Affine(0, 0, 20), None)
    for seed in range(20):
        matrix = warp.draw(np.random.default_rng(seed))["matrix"]
        moved, _ = warp.apply(images, images / 200, {"matrix": matrix[None]})
        expected = np.array([21.5, 31.0]) - matrix[::-1, 2]
        assert np.abs(matrix[:, 2]).max() <= 10
        weights = moved[0, 0] / moved.sum()
        rows, columns = (torch.arange(side) for side in given.hw)
        centre = [float((weights.sum(1) * rows).sum()), float((weights.sum(0) * columns).sum())]
        assert centre == pytest.approx(expected, abs=0.02)


def test_a_sample_that_is_not_moved_keeps_every_value() -> None:
    images, masks = brains(4, channels=2)
    warp = Warp(frame(), Affine(30, 0, 0), None)
    identity = np.repeat(np.eye(2, 3, dtype=np.float32)[None], 4, axis=0)
    same = warp.apply(images, masks, {"matrix": identity})
    assert torch.equal(same[0], images)
    assert torch.equal(same[1], masks)

"""Geometry against closed forms, albumentations, and itself at another image size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from seglab.augment.geometry import Affine, Elastic, source_grid, warp
from seglab.augment.transform import Frame
from tests.augment.slices import apply, augmenter, brains, draws, frame, pipeline

GRID = {"albumentations": {"transforms": [{"GridDistortion": {"p": 1.0}}]}}
AFFINE, FIELD = Affine(15, 0.15, 8), Elastic(4, 24)
GEOMETRIC = ["mirror", "front_back", "flips", "affine", "elastic", "geometric", "albumentations"]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_image_and_mask_stay_aligned(name: str) -> None:
    _, masks = brains(30)
    images = (255 * masks).repeat(1, 3, 1, 1)
    given = augmenter(name, frame(neighbours=3), **GRID.get(name, {}))
    new_images, new_masks = apply(given, (images, masks))
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


def source_mm(given: Frame, affine: Affine | None, elastic: Elastic | None, seed: int):
    """Where each pixel comes from, in mm from the frame's centre: (2, side, side)."""
    drawn = warp(given, affine, elastic).draw(np.random.default_rng(seed))
    assert drawn is not None
    images = torch.zeros(1, 1, *given.hw)
    grid = source_grid(images, {name: value[None] for name, value in drawn.items()})
    return grid[0].permute(2, 0, 1) * given.hw[0] * given.pixel_mm / 2


@pytest.mark.parametrize(("affine", "elastic"), [(AFFINE, None), (None, FIELD), (AFFINE, FIELD)])
def test_a_draw_moves_by_the_same_millimetres_at_every_size(
    affine: Affine | None, elastic: Elastic | None
) -> None:
    for seed in range(5):
        small, large = (
            source_mm(Frame((side, side), pixel_mm), affine, elastic, seed)
            for side, pixel_mm in [(96, 2.5), (240, 1.0)]
        )
        there = functional.interpolate(large[None], [96, 96], mode="bilinear")[0]
        # The field's outer nodes lie on the outermost pixels, which are not the same place.
        assert (small - there).abs().max() < 0.5
        assert (small - there).square().mean().sqrt() < 0.1


def test_displacements_have_the_stated_spread_and_smoothness() -> None:
    nodes = draws("elastic", frame((120, 120), 2.0), 600, sd_mm=4, sigma_mm=20)["nodes"]
    fine = functional.interpolate(
        torch.from_numpy(nodes), [120, 120], mode="bilinear", align_corners=True
    )
    found = 2.0 * fine.numpy()
    assert abs(found.mean()) < 0.1
    assert found.std() == pytest.approx(4, rel=0.03)
    assert found[..., 0].std() == pytest.approx(4, rel=0.06)  # at the edges as everywhere
    for distance_mm in (10, 20, 40):
        lag = distance_mm // 2
        product = (found[..., lag:] * found[..., :-lag]).mean() / found.var()
        assert product == pytest.approx(np.exp(-((distance_mm / 40) ** 2)), abs=0.03)
    assert abs(np.corrcoef(found[:, 0].ravel(), found[:, 1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("limits", [(30.0, 0.0), (0.0, 0.3)])
def test_rotation_and_scale_equal_albumentations(limits: tuple[float, float]) -> None:
    import albumentations as A

    image = np.random.default_rng(0).integers(0, 256, (60, 90, 1), np.uint8)
    turned = warp(frame((60, 90)), Affine(*limits, 0.0))
    drawn = turned.draw(np.random.default_rng(5))
    planes = torch.from_numpy(image[None, None, ..., 0]).float()
    ours, mask = turned.apply(planes, planes, {key: each[None] for key, each in drawn.items()})
    forward = np.linalg.inv(drawn["matrix"][:, :2].astype(float))
    scale = float(np.sqrt(np.linalg.det(forward)))
    angle = float(np.degrees(np.arctan2(forward[0, 1], forward[0, 0])))  # counter-clockwise
    theirs = A.Affine(rotate=(angle, angle), scale=(scale, scale), p=1)
    expected = theirs(image=image, mask=image[..., 0])
    # OpenCV places samples on a raster of 1/32 pixel.
    assert np.abs(ours[0, 0].numpy() - expected["image"][..., 0]).mean() < 1
    assert np.mean(mask[0, 0].numpy() != expected["mask"]) < 0.01


def test_a_shift_moves_by_the_drawn_distance() -> None:
    images = torch.zeros(1, 1, 50, 70)
    images[..., 20:24, 30:33] = 200
    (shift,) = pipeline("affine", frame((50, 70), 2.0), rotate_deg=0, scale=0, shift_mm=20)
    for seed in range(20):
        drawn = shift.draw(np.random.default_rng(seed))
        params = {key: each[None] for key, each in drawn.items()}
        moved, _ = shift.apply(images, images / 200, params)
        expected = np.array([21.5, 31.0]) - drawn["matrix"][::-1, 2]
        assert np.abs(drawn["matrix"][:, 2]).max() <= 10
        weights = moved[0, 0] / moved.sum()
        rows, columns = torch.arange(50), torch.arange(70)
        centre = [float((weights.sum(1) * rows).sum()), float((weights.sum(0) * columns).sum())]
        assert centre == pytest.approx(expected, abs=0.02)

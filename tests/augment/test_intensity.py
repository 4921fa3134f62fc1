"""Grey-level changes against OpenCV and closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from seglab.augment.transform import Frame
from tests.augment.slices import apply, augmenter, brains, draws, frame, pipeline

INTENSITY = ["tone", "noise", "blur", "bias_field", "low_resolution", "intensity"]


def smooth(count: int, hw: tuple[int, int] = (64, 48)) -> torch.Tensor:
    """Smooth textures without background: (count, 1, H, W)."""
    noise = np.random.default_rng(0).normal(0, 300, (count, *hw))
    planes = [cv2.GaussianBlur(plane, (0, 0), 3) + 130 for plane in noise]
    return torch.from_numpy(np.stack(planes)[:, None]).float().round().clamp(1, 255)


@pytest.mark.parametrize("name", INTENSITY)
def test_background_stays_black_brain_does_not_and_masks_are_left_alone(name: str) -> None:
    images, masks = brains(20, channels=2)
    changed, same = apply(augmenter(name, frame()), (images, masks))
    assert torch.equal(changed > 0, images > 0)
    assert torch.equal(same, masks)
    assert not torch.equal(changed, images)


@pytest.mark.parametrize("name", INTENSITY)
def test_neighbours_change_alike_and_modalities_by_themselves(name: str) -> None:
    images = smooth(12).repeat(1, 6, 1, 1)  # two modalities with three slices each
    masks = torch.zeros(12, 1, 64, 48)
    changed, _ = apply(augmenter(name, frame(neighbours=3)), (images, masks))
    first, second = changed[:, :3], changed[:, 3:]
    if name not in {"noise", "intensity"}:
        assert torch.equal(first[:, 0], first[:, 2])
        assert torch.equal(second[:, 0], second[:, 1])
    differs = (first != second).flatten(1).any(dim=1)
    assert differs.float().mean() > 0.6


def test_tone_is_neutral_at_zero_and_monotone() -> None:
    zero = draws("tone", frame(), 1, brightness=0, contrast=0, gamma=1)["table"]
    np.testing.assert_array_equal(zero, [np.arange(256)])
    limits = {"brightness": 0.2, "contrast": 0.4, "gamma": 1.5}
    tables = draws("tone", frame(), 50, **limits)["table"]
    assert (np.diff(tables) >= 0).all()
    assert (tables[:, 1:] >= 1).all()
    images, (tone,) = smooth(50), pipeline("tone", frame())
    changed = tone.apply(images, {"table": tables})
    expected = [table[plane[0].long()] for table, plane in zip(tables, images, strict=True)]
    np.testing.assert_array_equal(changed[:, 0], expected)


def test_noise_has_the_drawn_spread_in_every_channel() -> None:
    images, (transform,) = torch.full((3, 2, 96, 96), 128.0), pipeline("noise", frame())
    params = {"sd": np.array([0, 4, 12], np.float32), "seed": np.array([5, 6, 7])}
    changed = transform.apply(images, params)
    assert torch.equal(changed[0], images[0])
    noise = (changed - images).numpy()
    for channel in range(2):
        assert noise[1, channel].std() == pytest.approx(4, rel=0.03)
        assert noise[2, channel].std() == pytest.approx(12, rel=0.03)
    assert abs(np.corrcoef(noise[2].reshape(2, -1))[0, 1]) < 0.05
    sds = draws("noise", frame(), 400, sd=0.1)["sd"]
    assert sds.max() <= 25.5
    assert sds.mean() == pytest.approx(25.5 / 2, rel=0.1)


@pytest.mark.parametrize(("sigma_mm", "pixel_mm"), [(1.0, 2.5), (2.0, 1.0), (6.0, 1.5)])
def test_blur_equals_opencv(sigma_mm: float, pixel_mm: float) -> None:
    given, images = frame(pixel_mm=pixel_mm), smooth(4)
    side = draws("blur", given, 1, sigma_mm=sigma_mm)["kernel"].shape[1]
    sigmas = np.array([0.3, 0.6, 0.9, 1.0]) * sigma_mm / pixel_mm
    kernels = np.exp(-0.5 * ((np.arange(side) - side // 2) / sigmas[:, None]) ** 2)
    kernels /= kernels.sum(axis=1, keepdims=True)
    (blur,) = pipeline("blur", given, sigma_mm=sigma_mm)
    changed = blur.apply(images, {"kernel": kernels.astype(np.float32)})
    for image, new, sigma in zip(images, changed, sigmas, strict=True):
        expected = cv2.GaussianBlur(image[0].numpy(), (side, side), sigma)
        assert np.abs(new[0].numpy() - expected).max() <= 0.51  # rounded


def test_bias_field_equals_opencv() -> None:
    images, given = smooth(3, (65, 48)), frame((65, 48))
    drawn = draws("bias_field", given, 300, strength=0.4)["nodes"]
    assert np.log(drawn).std() == pytest.approx(0.4, rel=0.05)
    (bias,) = pipeline("bias_field", given)
    changed = bias.apply(images, {"nodes": drawn[:3]})
    for image, new, nodes in zip(images, changed, drawn[:3], strict=True):
        field = cv2.resize(nodes, (48, 65), interpolation=cv2.INTER_CUBIC)
        expected = np.clip(np.rint(image[0].numpy() * field), 1, 255)
        assert np.abs(new[0].numpy() - expected).max() <= 1


def test_low_resolution_averages_and_interpolates_as_opencv_does() -> None:
    images, (coarse,) = smooth(1, (64, 48)), pipeline("low_resolution", frame())
    changed = coarse.apply(images, {"size": np.array([[32, 24]])})
    small = cv2.resize(images[0, 0].numpy(), (24, 32), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (48, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(changed[0, 0].numpy() - expected).max() <= 0.51


def test_low_resolution_means_millimetres() -> None:
    for pixel_mm in (1.0, 2.5):
        (coarse,) = pipeline("low_resolution", Frame((240, 240), pixel_mm))
        for seed in range(40):
            drawn = coarse.draw(np.random.default_rng(seed))
            wanted_mm = np.random.default_rng(seed).uniform(1, 5)
            if wanted_mm <= pixel_mm:
                assert drawn is None
            else:
                assert drawn["size"][0] == round(240 * pixel_mm / wanted_mm)

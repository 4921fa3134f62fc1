"""Grey-level changes against OpenCV and closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from seglab.augment import Frame
from seglab.augment.intensity import BiasField, Blur, LowResolution, Noise, Tone
from seglab.augment.transform import Intensity
from tests.augment.slices import apply, augmenter, brains, frame

INTENSITY = ["tone", "noise", "blur", "bias_field", "low_resolution", "intensity"]


def smooth(count: int, hw: tuple[int, int] = (64, 48)) -> torch.Tensor:
    """Smooth textures without background: (count, 1, H, W)."""
    noise = np.random.default_rng(0).normal(0, 300, (count, *hw))
    planes = [cv2.GaussianBlur(plane, (0, 0), 3) + 130 for plane in noise]
    return torch.from_numpy(np.stack(planes)[:, None]).float().round().clamp(1, 255)


def stacked(transform: Intensity, count: int) -> dict[str, np.ndarray]:
    drawn = [dict(transform.draw(np.random.default_rng(i)) or {}) for i in range(count)]
    return {name: np.stack([each[name] for each in drawn]) for name in drawn[0]}


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
    given = frame(neighbours=3)
    changed, _ = apply(augmenter(name, given), (images, masks))
    first, second = changed[:, :3], changed[:, 3:]
    if name not in {"noise", "intensity"}:
        assert torch.equal(first[:, 0], first[:, 2])
        assert torch.equal(second[:, 0], second[:, 1])
    differs = (first != second).flatten(1).any(dim=1)
    assert differs.float().mean() > 0.6


def test_tone_is_neutral_at_zero_and_monotone() -> None:
    table = Tone(0, 0, 1, p=1).draw(np.random.default_rng(0))["table"]
    np.testing.assert_array_equal(table, np.arange(256))
    tables = stacked(Tone(0.2, 0.4, 1.5, p=1), 50)["table"]
    assert (np.diff(tables) >= 0).all()
    assert (tables[:, 1:] >= 1).all()
    images = smooth(50)
    changed = Tone(0.2, 0.4, 1.5, p=1).apply(images, {"table": tables})
    expected = [table[plane[0].long()] for table, plane in zip(tables, images, strict=True)]
    np.testing.assert_array_equal(changed[:, 0], expected)


def test_noise_has_the_drawn_spread_in_every_channel() -> None:
    images = torch.full((3, 2, 96, 96), 128.0)
    params = {"sd": np.array([0, 4, 12], np.float32), "seed": np.array([5, 6, 7])}
    changed = Noise(0.1, p=1).apply(images, params)
    assert torch.equal(changed[0], images[0])
    noise = (changed - images).numpy()
    for channel in range(2):
        assert noise[1, channel].std() == pytest.approx(4, rel=0.03)
        assert noise[2, channel].std() == pytest.approx(12, rel=0.03)
    assert abs(np.corrcoef(noise[2].reshape(2, -1))[0, 1]) < 0.05
    sds = stacked(Noise(0.1, p=1), 400)["sd"]
    assert sds.max() <= 25.5
    assert sds.mean() == pytest.approx(25.5 / 2, rel=0.1)


@pytest.mark.parametrize(("sigma_mm", "pixel_mm"), [(1.0, 2.5), (2.0, 1.0), (6.0, 1.5)])
def test_blur_equals_opencv(sigma_mm: float, pixel_mm: float) -> None:
    images, blur = smooth(4), Blur(frame(pixel_mm=pixel_mm), sigma_mm, p=1)
    offsets = np.arange(-blur.radius, blur.radius + 1)
    sigmas = np.array([0.3, 0.6, 0.9, 1.0]) * sigma_mm / pixel_mm
    kernels = np.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    kernels /= kernels.sum(axis=1, keepdims=True)
    changed = blur.apply(images, {"kernel": kernels.astype(np.float32)})
    for image, new, sigma in zip(images, changed, sigmas, strict=True):
        side = len(offsets)
        expected = cv2.GaussianBlur(image[0].numpy(), (side, side), sigma)
        assert np.abs(new[0].numpy() - expected).max() <= 0.51  # rounded


def test_blur_is_drawn_up_to_its_limit_and_keeps_the_sum() -> None:
    kernels = stacked(Blur(frame(pixel_mm=1.0), 2.0, p=1), 200)["kernel"]
    np.testing.assert_allclose(kernels.sum(axis=1), 1, rtol=1e-5)
    offsets = np.arange(kernels.shape[1]) - kernels.shape[1] // 2
    spread = np.sqrt((kernels * offsets**2).sum(axis=1))
    assert spread.max() == pytest.approx(2.0, rel=0.05)
    assert spread.min() < 0.3


def test_bias_field_equals_opencv() -> None:
    images, bias = smooth(3, (65, 48)), BiasField(frame((65, 48)), 0.4, p=1)
    params = stacked(bias, 3)
    assert np.log(stacked(bias, 300)["nodes"]).std() == pytest.approx(0.4, rel=0.05)
    changed = bias.apply(images, params)
    for image, new, nodes in zip(images, changed, params["nodes"], strict=True):
        field = cv2.resize(nodes, (48, 65), interpolation=cv2.INTER_CUBIC)
        expected = np.clip(np.rint(image[0].numpy() * field), 1, 255)
        assert np.abs(new[0].numpy() - expected).max() <= 1


def test_low_resolution_averages_and_interpolates_as_opencv_does() -> None:
    images = smooth(1, (64, 48))
    coarse = LowResolution(frame(pixel_mm=2.5), 5, p=1)
    changed = coarse.apply(images, {"size": np.array([[32, 24]])})
    small = cv2.resize(images[0, 0].numpy(), (24, 32), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (48, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(changed[0, 0].numpy() - expected).max() <= 0.51


def test_low_resolution_means_millimetres() -> None:
    for pixel_mm in (1.0, 2.5):
        given = Frame((240, 240), pixel_mm)
        for seed in range(40):
            drawn = LowResolution(given, 5, p=1).draw(np.random.default_rng(seed))
            wanted_mm = np.random.default_rng(seed).uniform(1, 5)
            if wanted_mm <= pixel_mm:
                assert drawn is None
            else:
                assert drawn["size"][0] == round(240 * pixel_mm / wanted_mm)

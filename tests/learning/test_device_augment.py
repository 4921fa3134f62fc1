"""Augmentation on the device against the processor's: same parameters, pixels, distributions."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.geometric.functional import generate_displacement_fields
from scipy.stats import ks_2samp
from torch.utils._python_dispatch import TorchDispatchMode

from seglab.core.registry import AUGMENTATIONS
from seglab.data.augment import Augmenter
from seglab.data.augment.displacement import displacement_field, source_maps
from seglab.data.augment.intensity import BiasField, Blur, Noise, Tone
from seglab.data.augment.warp import Affine, Elastic, Warp
from seglab.learning.augment.augmenter import DeviceAugmenter
from seglab.learning.augment.intensity import gaussian
from seglab.learning.augment.transform import DeviceTransform, Slices
from seglab.learning.augment.translate import NoDeviceVersion, translate

CPU = torch.device("cpu")
TRANSLATED = [e.name for e in AUGMENTATIONS if e.name not in {"grid", "dropout", "all"}]


def on_device(transform: object, hw: tuple[int, int] = (64, 48)) -> DeviceTransform:
    return translate([transform], hw, CPU)[0]


def brains(
    count: int, hw: tuple[int, int] = (64, 48), channels: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth textured ellipses on 0, (B,H,W,C) uint8, with an off-centre lesion as mask."""
    rng, (height, width) = np.random.default_rng(0), hw
    y, x = np.mgrid[:height, :width]
    inside = np.hypot((y - height / 2) / (0.4 * height), (x - width / 2) / (0.4 * width)) < 1
    noise = [cv2.GaussianBlur(rng.normal(0, 300, hw), (0, 0), 3) for _ in range(count * channels)]
    images = np.moveaxis(np.reshape(noise, (count, channels, *hw)), 1, -1) + 130
    lesion = np.hypot(y - height * 0.4, x - width * 0.6) < 0.15 * height
    masks = np.repeat(lesion[None], count, axis=0).astype(np.uint8)
    return (images.clip(1, 255) * inside[..., None]).astype(np.uint8), masks


def tensors(images: np.ndarray, masks: np.ndarray) -> Slices:
    planes = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
    return planes.contiguous(), torch.from_numpy(masks.astype(np.float32))[:, None]


def arrays(slices: Slices) -> tuple[np.ndarray, np.ndarray]:
    return slices[0].permute(0, 2, 3, 1).numpy(), slices[1][:, 0].numpy()


def apply(device: DeviceTransform, images: np.ndarray, masks: np.ndarray, **params: object):
    given = {name: torch.from_numpy(np.asarray(v, np.float32)) for name, v in params.items()}
    return arrays(device.apply(tensors(images, masks), given, torch.Generator()))


def augment(name: str, images: np.ndarray, masks: np.ndarray, seed: int = 3, step: int = 0):
    hw = images.shape[1:3]
    transforms = translate(AUGMENTATIONS.build(name, {}, 0), hw, CPU)
    return arrays(DeviceAugmenter(transforms, seed, CPU)(tensors(images, masks), (0, step)))


@pytest.mark.parametrize("channels", [1, 3])
def test_tone_equals_the_table(channels: int) -> None:
    (images, masks), tone = brains(5, channels=channels), Tone(0.2, 0.4, 1.8, p=1)
    changed, _ = apply(
        on_device(tone), images, masks, tone=[tone.draw(random.Random(i).uniform) for i in range(5)]
    )
    for i in range(5):
        tone.set_random_state(np.random.default_rng(0), random.Random(i))
        table = tone.get_params()["table"]
        assert np.abs(changed[i] - table[images[i]]).max() <= 1
        assert np.mean(changed[i] != table[images[i]]) < 1e-3


@pytest.mark.parametrize("sigma", [0.3, 0.55, 0.8, 1.7, 4.0])
def test_blur_equals_opencv(sigma: float) -> None:
    (images, masks), blur = brains(4, channels=2), Blur(sigma=4.0, p=1)
    device = on_device(blur)
    kernels = np.stack([gaussian(s, device.radius) for s in (sigma, 0.0, sigma, 4.0)])
    changed, _ = apply(device, images, masks, kernel=kernels)
    for i, each in ((0, sigma), (2, sigma), (3, 4.0)):
        expected = blur.apply(images[i], sigma=each).astype(float)
        assert np.abs(changed[i] - expected).max() <= 1
    np.testing.assert_array_equal(changed[1], images[1])


def test_bias_field_equals_opencv() -> None:
    (images, masks), bias = brains(3, (65, 48), channels=2), BiasField(strength=0.4, p=1)
    nodes = [np.random.default_rng(i).standard_normal((4, 4), dtype=np.float32) for i in range(3)]
    changed, _ = apply(on_device(bias, (65, 48)), images, masks, nodes=0.4 * np.array(nodes))
    for i in range(3):
        bias.set_random_state(np.random.default_rng(i), random.Random(0))
        field = bias.get_params_dependent_on_data({"shape": images[i].shape}, {})["field"]
        assert np.abs(changed[i] - bias.apply(images[i], field=field)).max() <= 1


def test_noise_has_the_drawn_spread_in_every_channel() -> None:
    images, masks = np.full((3, 96, 96, 2), 128, np.uint8), np.zeros((3, 96, 96), np.uint8)
    changed, _ = apply(on_device(Noise(p=1)), images, masks, sd=[0, 4, 12])
    np.testing.assert_array_equal(changed[0], images[0])
    noise = changed - images
    for channel in range(2):
        assert noise[1, ..., channel].std() == pytest.approx(4, rel=0.03)
        assert noise[2, ..., channel].std() == pytest.approx(12, rel=0.03)
    assert abs(np.corrcoef(noise[2].reshape(-1, 2).T)[0, 1]) < 0.05


@pytest.mark.parametrize("edges", ["free", "replicate"])
def test_warp_moves_every_pixel_as_opencv_does(edges: str) -> None:
    hw = height, width = 60, 84
    elastic = Elastic(120, 5, edges)
    device = on_device(Warp(Affine(20, 0.2, 0.1), elastic, p=1), hw)
    (images, masks), stream = brains(4, hw, channels=2), np.random.default_rng(1)
    field = displacement_field(height, width, 120, 5, edges)
    weights = np.stack([field.draw(stream) for _ in range(4)])
    matrix = np.stack([Affine(20, 0.2, 0.1).draw(stream.uniform, *hw) for _ in range(4)])
    moved, nearest = apply(device, images, masks, matrix=matrix, weights=weights)
    grid = device.source(torch.from_numpy(matrix), torch.from_numpy(weights)).numpy()
    for i in range(4):
        maps = source_maps(field, weights[i], matrix[i].astype(float))
        y = ((grid[i, ..., 1] + 1) * height - 1) / 2
        x = ((grid[i, ..., 0] + 1) * width - 1) / 2
        np.testing.assert_allclose(x, maps[0], atol=2e-3)
        np.testing.assert_allclose(y, maps[1], atol=2e-3)
        # OpenCV places samples on a raster of 1/32 pixel.
        expected = cv2.remap(images[i], *maps, cv2.INTER_LINEAR).astype(float)
        assert np.abs(moved[i] - expected).mean() < 0.5
        expected = cv2.remap(masks[i], *maps, cv2.INTER_NEAREST)
        assert np.mean(nearest[i] != expected) < 0.005
        assert nearest[i].any()


class Tf32(TorchDispatchMode):
    """Rounds the factors of matrix products to the 10 bits of mantissa that TF32 has."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in {"mm", "bmm", "addmm", "baddbmm"}:
            bits = [(a.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF for a in args]
            args = [rounded.view(torch.float32) for rounded in bits]
        return func(*args, **(kwargs or {}))


def test_pixels_come_from_the_same_place_where_matrix_products_are_rounded() -> None:
    device = on_device(Warp(Affine(20, 0.2, 0.1), Elastic(100, 5, "replicate"), p=1), (240, 240))
    drawn = {k: torch.from_numpy(v) for k, v in device.draw(np.random.default_rng(0), 8).items()}
    exact = device.source(**drawn)
    with Tf32():
        rounded = device.source(**drawn)
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).abs().max()) * 240 / 2 < 0.02


def correlation_length(fields: np.ndarray, axis: int) -> float:
    """Lag in pixels at which the correlation along ``axis`` falls to 1/e, interpolated."""
    moved = np.moveaxis(fields, axis, -1)
    length = moved.shape[-1]
    products = [
        (moved[..., : length - lag] * moved[..., lag:]).mean() for lag in range(length // 2)
    ]
    correlation = np.array(products) / products[0]
    return float(np.interp(-1 / np.e, -correlation, np.arange(len(correlation))))


def test_displacements_have_the_statistics_of_albumentations() -> None:
    hw, alpha, sigma = (96, 120), 100, 5.0
    device = on_device(Warp(elastic=Elastic(alpha, sigma, "replicate"), p=1), hw)
    stream = np.random.default_rng(0)
    weights = device.draw(stream, 300)["weights"]
    ours = device.displacement(torch.from_numpy(weights)).numpy()
    theirs = np.array(
        [
            generate_displacement_fields(hw, alpha, sigma, False, (0, 0), stream, "gaussian")
            for _ in range(300)
        ]
    )
    assert abs(ours.mean() - theirs.mean()) < 0.05 * theirs.std()
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    for axis in (2, 3):
        assert correlation_length(ours, axis) == pytest.approx(
            correlation_length(theirs, axis), rel=0.05
        )


@pytest.mark.parametrize(
    ("transform", "share"),
    [
        (A.VerticalFlip(p=0.3), 0.3),
        (Tone(0.1, p=0.3), 0.3),
        (Noise(p=0.3), 0.3),
        (Blur(p=0.3), 0.3),
        (BiasField(p=0.3), 0.3),
        (Warp(Affine(10, p=0.6), p=0.5), 0.3),
        (Warp(elastic=Elastic(100, 5, p=0.6), p=0.5), 0.3),
        (Warp(Affine(10, p=0.5), Elastic(100, 5, p=0.5), p=1), 0.75),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else f"{value}",
)
def test_each_sample_has_the_probability_stated(transform: object, share: float) -> None:
    device = on_device(transform)
    drawn = device.draw(np.random.default_rng(0), 2000)
    touched = np.zeros(2000, bool)
    neutrals = {"flipped": 0, "tone": [0, 1, 1], "sd": 0, "nodes": 0, "weights": 0}
    neutrals |= {"matrix": np.eye(2, 3), "kernel": gaussian(0.0, getattr(device, "radius", 0))}
    for name, values in drawn.items():
        neutral = np.broadcast_to(np.asarray(neutrals[name], np.float32), values.shape)
        touched |= (values != neutral).reshape(2000, -1).any(axis=1)
    assert touched.mean() == pytest.approx(share, abs=0.04)  # four standard deviations


SUMMARIES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "brightness": lambda images, masks: images.mean(axis=(1, 2, 3)),
    "spread": lambda images, masks: images.std(axis=(1, 2, 3)),
    "sharpness": lambda images, masks: np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3)),
    "area": lambda images, masks: masks.mean(axis=(1, 2)),
    "row": lambda images, masks: (masks.mean(axis=2) @ np.arange(64)) / masks.mean(axis=(1, 2)),
    "column": lambda images, masks: (masks.mean(axis=1) @ np.arange(48)) / masks.mean(axis=(1, 2)),
}


@pytest.mark.parametrize("name", ["default", "geometric", "intensity"])
def test_pipelines_have_the_distribution_of_the_processors(name: str) -> None:
    image, mask = brains(1)
    images, masks = np.repeat(image, 800, axis=0), np.repeat(mask, 800, axis=0)
    host = Augmenter(AUGMENTATIONS.build(name, {}, 0), seed=1)(images, masks, range(800))
    device = augment(name, images, masks, seed=2)
    for what, summary in SUMMARIES.items():
        theirs, ours = (
            summary(*(array.astype(float) for array in part)) for part in (host, device)
        )
        assert ks_2samp(theirs, ours).pvalue > 1e-3, what


@pytest.mark.parametrize("name", TRANSLATED)
def test_repeats_keeps_shapes_background_and_binary_masks(name: str) -> None:
    images, masks = brains(12, channels=3)
    new_images, new_masks = augment(name, images, masks)
    assert new_images.shape == images.shape
    assert set(np.unique(new_masks)) <= {0, 1}
    np.testing.assert_array_equal(new_images, np.rint(new_images).clip(0, 255))
    assert not new_images[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    again = augment(name, images, masks)
    np.testing.assert_array_equal(new_images, again[0])
    np.testing.assert_array_equal(new_masks, again[1])
    if name != "none":
        assert not np.array_equal(new_images, augment(name, images, masks, step=1)[0])
        assert not np.array_equal(new_images, augment(name, images, masks, seed=4)[0])


@pytest.mark.parametrize("name", ["flips", "affine", "elastic", "geometric"])
def test_image_and_mask_stay_aligned(name: str) -> None:
    _, masks = brains(30)
    images = np.repeat(masks[..., None] * np.uint8(255), 2, axis=-1)
    new_images, new_masks = augment(name, images, masks)
    sure = np.abs(new_images[..., 1] - 128) > 70
    np.testing.assert_array_equal(new_images[..., 1][sure] > 128, new_masks[sure] == 1)
    assert (~sure).mean() < 0.03
    np.testing.assert_array_equal(new_images[..., 0], new_images[..., 1])


def test_a_sample_that_is_not_moved_keeps_every_value() -> None:
    images, masks = brains(16, channels=2)
    device = on_device(Warp(Affine(30), p=1))
    identity = np.repeat(np.eye(2, 3)[None], 16, axis=0)
    same = apply(device, images, masks, matrix=identity)
    np.testing.assert_array_equal(same[0], images)
    np.testing.assert_array_equal(same[1], masks)


@pytest.mark.parametrize(
    ("name", "culprit"), [("grid", "GridDistortion"), ("dropout", "CoarseDropout"), ("all", "Grid")]
)
def test_a_transform_without_device_version_is_named(name: str, culprit: str) -> None:
    with pytest.raises(NoDeviceVersion, match=culprit):
        translate(AUGMENTATIONS.build(name, {}, 0), (64, 48), CPU)


def test_a_subclass_may_do_anything_and_is_not_translated() -> None:
    class Darker(Tone):
        """Overrides what is done."""

    with pytest.raises(NoDeviceVersion, match="Darker"):
        on_device(Darker())

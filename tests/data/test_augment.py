from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from seglab.core.errors import UserError
from seglab.core.registry import AUGMENTATIONS
from seglab.data.augment import Augmenter
from seglab.data.augment.transform import pipeline

NAMES = [entry.name for entry in AUGMENTATIONS]
GEOMETRIC = ["mirror", "front_back", "flips", "rotate", "scale", "affine", "elastic", "grid"]
INTENSITY = ["brightness_contrast", "gamma", "noise", "blur", "bias_field", "intensity"]
MASK_ALONE = [*INTENSITY, "dropout"]
"""Those that may change the image and never the mask."""


def build(name: str, mirror_axis: int = 0, **options: object) -> Augmenter:
    if "p" in AUGMENTATIONS[name].options.model_fields:
        options = {"p": 1.0, **options}
    return Augmenter(AUGMENTATIONS.build(name, options, mirror_axis), seed=3)


def brains(
    batch: int, height: int = 64, width: int = 64, channels: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Textured ellipses on a background of 0, each with an off-centre lesion as its mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height / 2) / (0.42 * height)) ** 2 + ((x - width / 2) / (0.4 * width)) ** 2 < 1
    images = rng.integers(60, 200, (batch, height, width, channels))
    lesion = (y - height * 0.4) ** 2 + (x - width * 0.6) ** 2 < (0.15 * height) ** 2
    masks = np.repeat(lesion[None], batch, axis=0).astype(np.uint8)
    return (images * inside[..., None]).astype(np.uint8), masks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width", "channels"), [(64, 48, 1), (40, 96, 3), (33, 65, 7)])
def test_keeps_shape_dtype_and_binary_masks(
    name: str, height: int, width: int, channels: int
) -> None:
    images, masks = brains(6, height, width, channels)
    before = images.copy(), masks.copy()
    new_images, new_masks = build(name)(images, masks, range(6))
    assert new_images.shape == images.shape
    assert new_masks.shape == masks.shape
    assert new_images.dtype == new_masks.dtype == np.uint8
    assert set(np.unique(new_masks)) <= {0, 1}
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(masks, before[1])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_changes_images(name: str) -> None:
    images, masks = brains(8)
    assert not np.array_equal(build(name)(images, masks, range(8))[0], images)


@pytest.mark.parametrize("name", [*GEOMETRIC, "geometric"])
@pytest.mark.parametrize("channels", [1, 5])
def test_image_and_mask_stay_aligned(name: str, channels: int) -> None:
    _, masks = brains(12, 80, 64)
    images = np.repeat(masks[..., None] * np.uint8(255), channels, axis=-1)
    new_images, new_masks = build(name)(images, masks, range(12))
    assert new_masks.any(axis=(1, 2)).all()
    for channel in range(channels):
        # Bilinear grey against nearest neighbour: they may differ where grey is near the middle.
        sure = np.abs(new_images[..., channel].astype(int) - 128) > 70
        np.testing.assert_array_equal(new_images[..., channel][sure] > 128, new_masks[sure] == 1)
        assert (~sure).mean() < 0.03


def test_every_augmentation_is_held_to_its_marker() -> None:
    """A new one must be put where its image and mask are compared."""
    mixed = {"none", "default", "all"}  # of parts that are all compared
    assert set(NAMES) == {*GEOMETRIC, "geometric", *MASK_ALONE, *mixed}


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_seed_and_key_alone(name: str) -> None:
    images, masks = brains(7)
    augment = build(name)
    keys = [11, 5, 2**40, 7, 0, 3, 8]
    together = augment(images, masks, keys)
    for i in reversed(range(7)):
        fresh = pickle.loads(pickle.dumps(build(name)))
        alone = fresh(images[i : i + 1], masks[i : i + 1], [keys[i]])
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        np.testing.assert_array_equal(alone[1][0], together[1][i])


@pytest.mark.parametrize("name", ["rotate", "elastic", "grid", "noise", "dropout", "default"])
def test_keys_and_seeds_differ(name: str) -> None:
    image, mask = brains(1)
    first = build(name)
    images, masks = np.repeat(image, 12, axis=0), np.repeat(mask, 12, axis=0)
    results = {new.tobytes() for new in first(images, masks, range(12))[0]}
    assert len(results) >= 11
    other_seed = Augmenter(first.transforms, seed=4)
    assert not np.array_equal(
        first(images, masks, range(12))[0], other_seed(images, masks, range(12))[0]
    )


@pytest.mark.parametrize("mirror_axis", [0, 1])
def test_mirror_swaps_left_and_right(mirror_axis: int) -> None:
    images, masks = brains(2, 40, 56)
    mirrored = build("mirror", mirror_axis)(images, masks, [0, 1])
    np.testing.assert_array_equal(mirrored[0], np.flip(images, 1 + mirror_axis))
    np.testing.assert_array_equal(mirrored[1], np.flip(masks, 1 + mirror_axis))
    other = build("front_back", mirror_axis)(images, masks, [0, 1])
    np.testing.assert_array_equal(other[0], np.flip(images, 2 - mirror_axis))


def test_flips_are_independent_coins() -> None:
    image, mask = brains(1)
    images, masks = np.repeat(image, 400, axis=0), np.repeat(mask, 400, axis=0)
    augment = Augmenter(AUGMENTATIONS.build("flips", {"p": 0.5}, 0), seed=0)
    outcomes = [new.tobytes() for new in augment(images, masks, range(400))[0]]
    counts = sorted(outcomes.count(outcome) for outcome in set(outcomes))
    assert len(counts) == 4
    assert min(counts) > 65  # expectation 100, SD 8.7


@pytest.mark.parametrize("name", [*INTENSITY, "default", "geometric"])
def test_background_stays_black_and_brain_does_not(name: str) -> None:
    images, masks = brains(20, 64, 64, 2)
    new_images, _ = build(name)(images, masks, range(20))
    if name in INTENSITY:
        np.testing.assert_array_equal(new_images > 0, images > 0)
    corners = new_images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners.any()


@pytest.mark.parametrize("name", MASK_ALONE)
def test_intensity_leaves_masks_alone(name: str) -> None:
    images, masks = brains(5)
    np.testing.assert_array_equal(build(name)(images, masks, range(5))[1], masks)


def test_strength_zero_leaves_only_the_mirror() -> None:
    images, masks = brains(30)
    for image, new in zip(
        images, build("default", strength=0)(images, masks, range(30))[0], strict=True
    ):
        difference = min(
            np.abs(new.astype(int) - flip.astype(int)).max() for flip in (image, image[::-1])
        )
        assert difference <= 40  # the narrowest blur may act on the noise


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rotate", {"limit": 20}),
        ("elastic", {"alpah": 3.0}),
        ("mirror", {"p": 1.5}),
        ("grid", {"steps": "many"}),
        ("none", {"p": 1.0}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        AUGMENTATIONS.build(name, options, 0)


def test_bad_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'elastic'"):
        AUGMENTATIONS.build("elastik", {}, 0)


def test_unknown_argument_of_albumentations_is_an_error() -> None:
    import albumentations

    @pipeline("test_misspelt")
    def misspelt(mirror_axis: int) -> list[object]:
        """Has a typo."""
        return [albumentations.Affine(rotate_limits=(-10, 10))]

    try:
        with pytest.raises(UserWarning, match="rotate_limits"):
            AUGMENTATIONS.build("test_misspelt", {}, 0)
    finally:
        del AUGMENTATIONS._entries["test_misspelt"]


def test_registering_does_not_import_albumentations() -> None:
    code = "import seglab.data.augment, sys, os; print('albumentations' in sys.modules)"
    code += "; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["False", "1"]

"""What holds for every augmentation that a YAML can name, and which of albumentations it can."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from seglab.augment.named import build_named
from seglab.augment.transform import Augmenter, sample_streams
from seglab.core.config import Augment
from seglab.core.errors import UserError
from seglab.core.registry import AUGMENTATIONS
from tests.augment.slices import Slices, apply, augmenter, brains, frame

OPTIONS = {"albumentations": {"transforms": [{"GridDistortion": {"p": 0.9}}, "RandomGamma"]}}
NAMES = [entry.name for entry in AUGMENTATIONS]


def of_name(name: str, channels: int = 1) -> Augmenter:
    return augmenter(name, frame(neighbours=channels), **OPTIONS.get(name, {}))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def same(one: Slices, other: Slices) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_repeats_and_keeps_shapes_grey_levels_background_and_binary_masks(name: str) -> None:
    slices = brains(12, channels=3)
    changed = apply(of_name(name, 3), slices)
    images, masks = changed
    assert images.shape == slices[0].shape
    assert masks.shape == slices[1].shape
    assert set(masks.unique().tolist()) <= {0, 1}
    assert torch.equal(images, images.round().clamp(0, 255))
    assert not images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert same(changed, apply(of_name(name, 3), slices))
    if name == "none":
        assert same(changed, slices)
    elif name not in {"mirror", "front_back", "flips"}:  # certain here
        assert not same(changed, apply(of_name(name, 3), slices, seed=4))
        assert not same(changed, apply(of_name(name, 3), slices, first=12))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("two_threads")
def test_batches_and_threads_do_not_change_the_bits(name: str) -> None:
    # Large enough for torch to share the work among threads.
    slices = brains(7, (120, 96), channels=3)
    given = augmenter(name, frame((120, 96), neighbours=3), **OPTIONS.get(name, {}))
    whole = apply(given, slices)
    torch.set_num_threads(1)
    for start, end in [(0, 1), (1, 5), (5, 7)]:
        part = apply(given, tuple(each[start:end] for each in slices), first=start)
        assert same(part, tuple(each[start:end] for each in whole))


@pytest.mark.parametrize("name", ["mirror", "affine", "elastic", "noise"])
def test_each_sample_has_the_probability_stated(name: str) -> None:
    slices = brains(600, (16, 16))
    new, _ = apply(augmenter(name, frame((16, 16), 15.0), p=0.3), slices)
    touched = (new != slices[0]).flatten(1).any(dim=1)
    assert float(touched.float().mean()) == pytest.approx(0.3, abs=0.06)


def test_strength_zero_leaves_only_the_mirror() -> None:
    images, masks = brains(30)
    new, _ = apply(augmenter("default", frame(), strength=0), (images, masks))
    for image, changed in zip(images, new, strict=True):
        assert min((changed - image).abs().max(), (changed - image.flip(1)).abs().max()) <= 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("affine", {"shift": 0.04}),
        ("mirror", {"p": 1.5}),
        ("none", {"p": 1.0}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        AUGMENTATIONS.build(name, options, frame())


def test_registering_does_not_import_albumentations() -> None:
    code = "import seglab.augment, sys, os; print('albumentations' in sys.modules)"
    code += "; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.split() == ["False", "1"]


def listed(*transforms: Any) -> Augment:
    return Augment.model_validate({"name": "albumentations", "transforms": list(transforms)})


@pytest.mark.parametrize(
    "given",
    [
        {"GridDistortion": {"num_steps": 5, "distort_limit": [-0.2, 0.2], "p": 0.3}},
        {"VerticalFlip": None},
        "CoarseDropout",
    ],
)
def test_what_is_for_slices_is_taken_and_written_back(given: Any) -> None:
    block = listed(given)
    assert Augment.model_validate(block.model_dump(mode="json")) == block


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("GridDistorsion", "did you mean 'GridDistortion'"),
        ({"GridDistortion": {"num_step": 5}}, "no argument 'num_step' .did you mean 'num_steps'"),
        ({"GridDistortion": {"num_steps": "many"}}, "num_steps"),
        ("Compose", "no transform 'Compose'"),
        ("RandomRotate90", "changes the size"),
        ("Normalize", "no uint8 image"),
        ("BBoxSafeRandomCrop", "bboxes"),
        ("ShiftScaleRotate", "Affine"),  # a warning of theirs
        (3, "transforms"),
        ({"VerticalFlip": {}, "Transpose": {}}, "transforms"),
    ],
)
def test_what_is_not_is_refused_in_one_line(given: Any, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as refused:
        listed(given)
    assert str(refused.value).startswith("augment.transforms")
    assert "\n" not in str(refused.value)


def test_no_transform_and_an_older_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"augment\.transforms"):
        listed()
    with pytest.raises(UserError, match=r"augment\.name: .*'grid' is gone: .*GridDistortion"):
        Augment(name="grid")


@pytest.mark.parametrize("name", ["RandomBrightnessContrast", "GaussNoise", "GaussianBlur"])
def test_what_changes_grey_levels_leaves_the_background_black(name: str) -> None:
    image = np.zeros((40, 56, 3), np.uint8)
    image[8:32, 10:46] = np.random.default_rng(0).integers(60, 200, (24, 36, 3))
    mask = (image[..., 0] > 150).astype(np.uint8)
    changed, same = build_named(name, {"p": 1.0})(image, mask, np.random.default_rng(1))
    assert np.array_equal(changed > 0, image > 0)
    assert not np.array_equal(changed, image)
    assert np.array_equal(same, mask)


def test_a_slice_is_changed_alike_in_any_thread() -> None:
    image = np.random.default_rng(0).integers(60, 200, (40, 56, 3), np.uint8)
    transform = build_named("ElasticTransform", {"p": 0.7})

    def change(index: int) -> bytes:
        (stream,) = sample_streams(3, 0, index, 1)
        return transform(image, image[..., 0] // 128, stream)[0].tobytes()

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(change, range(40)))
    assert together == [change(index) for index in range(40)]
    assert 20 < len(set(together)) < 40  # some are left as they are

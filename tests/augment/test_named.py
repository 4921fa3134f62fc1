"""Transforms of albumentations by name: what is taken, and how the rest is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from seglab.augment.named import build_named
from seglab.augment.transform import sample_streams
from seglab.core.config import Augment
from seglab.core.errors import UserError


def listed(*transforms: Any) -> Augment:
    return Augment.model_validate({"name": "albumentations", "transforms": list(transforms)})


@pytest.mark.parametrize(
    "given",
    [
        {"GridDistortion": {"num_steps": 5, "distort_limit": [-0.2, 0.2], "p": 0.3}},
        {"VerticalFlip": None},
        "ElasticTransform",
        "CoarseDropout",
    ],
)
def test_what_is_for_slices_is_taken_and_written_back(given: Any) -> None:
    block = listed(given)
    again = Augment.model_validate(block.model_dump(mode="json"))
    assert again == block


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("GridDistorsion", "did you mean 'GridDistortion'"),
        ({"GridDistortion": {"num_step": 5}}, "no argument 'num_step' .did you mean 'num_steps'"),
        ({"GridDistortion": {"num_steps": "many"}}, "num_steps"),
        ("Compose", "no transform 'Compose'"),
        ("RandomRotate90", "changes the size"),
        ("RandomScale", "changes the size"),
        ("ToGray", "already gray"),
        ("CLAHE", "1-channel or 3-channel"),
        ("Normalize", "no uint8 image"),
        ("FDA", "fda_metadata"),
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


def test_no_transform_is_no_augmentation() -> None:
    with pytest.raises(UserError, match=r"augment\.transforms"):
        listed()


def test_the_older_name_of_a_transform_says_where_it_went() -> None:
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

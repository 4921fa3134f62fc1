from __future__ import annotations

import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.core.registry import AUGMENTATIONS
from seglab.figures.augmentation_sheet import augmentation_sheet


def square() -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((40, 60, 3), np.uint8)
    image[5:35, 10:50] = 120
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 15:30] = 1
    return image, mask


def test_every_augmentation_fits_on_one_sheet() -> None:
    image, mask = square()
    names = [entry.name for entry in AUGMENTATIONS]
    sheet = augmentation_sheet(image, mask, names, mirror_axis=0)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    few = augmentation_sheet(image, mask, names[:2], mirror_axis=0)
    assert few.shape[1] == sheet.shape[1]
    assert few.shape[0] < sheet.shape[0]


def test_sheet_is_repeatable_and_depends_on_the_orientation() -> None:
    image, mask = square()
    sheet = augmentation_sheet(image, mask, ["mirror", "elastic"], mirror_axis=1)
    again = augmentation_sheet(image, mask, ["mirror", "elastic"], mirror_axis=1)
    np.testing.assert_array_equal(sheet, again)
    lying = augmentation_sheet(image, mask, ["mirror", "elastic"], mirror_axis=0)
    assert not np.array_equal(sheet, lying)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'mirror'"):
        augmentation_sheet(*square(), ["miror"], mirror_axis=0)

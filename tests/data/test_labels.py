"""What numbers in a segmentation mean, and masks that cannot be a tumour of their image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.labels import LabelMap, canonical_names, check_on_image, read_labels, target_mask

PATH = Path("P_seg.nii.gz")
NONE, CORE, OEDEMA, ENHANCING, TUMOUR = range(5)


def read(values: tuple[float, ...], name: str = "", chosen: str = "auto", **more: Any) -> LabelMap:
    return read_labels(PATH, np.array([0, *values]), name=name, chosen=chosen, **more)


@pytest.mark.parametrize(
    ("values", "name", "convention", "canonical"),
    [
        ((1, 2, 4), "", "brats2017", (CORE, OEDEMA, ENHANCING)),
        ((1, 2, 4), "BraTS-GLI-00145-000", "brats2017", (CORE, OEDEMA, ENHANCING)),
        ((1, 2, 4), "BraTS-GLI-02062-100", "brats2024", (CORE, OEDEMA, NONE)),
        ((1, 2), "case_1", "brats2017", (CORE, OEDEMA)),
        ((2,), "BraTS-GLI-00145-000", "brats2017", (OEDEMA,)),
        ((1, 2, 3, 4), "BraTS20_Training_130", "brats2012", (CORE, OEDEMA, CORE, ENHANCING)),
        ((1, 2, 3), "brats_2013_pat0001_1", "brats2012", (CORE, OEDEMA, CORE)),
        ((1, 2, 3), "BraTS-GLI-00145-000", "brats2023", (CORE, OEDEMA, ENHANCING)),
        ((1, 2, 3, 4), "BraTS-GLI-02062-101", "brats2024", (CORE, OEDEMA, ENHANCING, NONE)),
        ((1,), "BraTS20_Training_001", "binary", (TUMOUR,)),
        ((255,), "", "binary", (TUMOUR,)),
        ((1.0, 1.99999998, 1e-7), "", "brats2017", (CORE, OEDEMA, NONE)),
        ((), "", "brats2017", ()),
    ],
)
def test_values_and_then_names_tell_the_convention(
    values: tuple[int, ...], name: str, convention: str, canonical: tuple[int, ...]
) -> None:
    found = read(values, name)
    assert found.convention == convention
    assert found.labels.tolist() == [0, *canonical]
    assert found.parts_known == (TUMOUR not in canonical)


@pytest.mark.parametrize("values", [(1, 2, 3, 4), (1, 2, 3), (3,), (3, 4)])
@pytest.mark.parametrize("name", ["", "case_1", "BraTS-PED-00001-000"])
def test_ambiguous_labels_need_the_key(values: tuple[int, ...], name: str) -> None:
    with pytest.raises(UserError, match=r"P_seg.*brats2012 and .*brats2024.*data\.labels"):
        read(values, name)
    assert read(values, name, "brats2012").convention == "brats2012"


def test_the_key_goes_before_names_and_values() -> None:
    assert read((1,), "BraTS20_Training_001", "brats2017").labels.max() == CORE
    assert read((1, 2, 4), chosen="brats2024").labels.tolist() == [0, 1, 2, 0]


def test_labels_3_and_4_are_told_with_the_convention() -> None:
    (told,) = read((1, 2, 3, 4), "BraTS20_Training_130").remarks
    for words in ("brats2012", "3 non-enhancing", "unless that is wrong (then set data.labels)"):
        assert words in told
    assert "4 the resection cavity" in read((3, 4), "BraTS-GLI-02062-100").remarks[0]
    assert not read((1, 2, 4), "BraTS20_Training_001").remarks


@pytest.mark.parametrize(
    ("values", "chosen", "said"),
    [
        ((1, 5, 7), "auto", "labels 5, 7, which brats2017 does not have"),
        ((1, 3), "brats2017", "labels 3, which brats2017 does not have .its labels: 1, 2, 4"),
        ((2,), "binary", "labels 2, which binary"),
        ((0.25, 0.5, 1.0), "auto", "labels 0.25, 0.5: labels are whole numbers"),
        ((1.0, 2.00002), "auto", "labels 2.00002: labels are whole numbers"),
        ((-1, 1), "auto", "labels -1: labels are whole numbers from 0 to 255"),
        ((300, 1), "auto", "labels 300: "),
        ((float("nan"), 1.0), "auto", "mask values that are NaN"),
        ((float("inf"), 1.0), "binary", "labels inf"),
    ],
)
def test_values_outside_are_named(values: tuple[float, ...], chosen: str, said: str) -> None:
    with pytest.raises(UserError, match=f"P_seg.nii.gz holds .*{said}"):
        read(values, "BraTS20_Training_001", chosen)


@pytest.mark.parametrize(
    ("names", "canonical"),
    [
        ({"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
         {1: OEDEMA, 2: CORE, 3: ENHANCING}),
        ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
         {1: OEDEMA, 2: CORE, 3: ENHANCING}),
        ({"NCR": 1, "oedema": 2, "enhancing": 4}, {1: CORE, 2: OEDEMA, 4: ENHANCING}),
        ({"background": 0, "tumor": 1}, {1: TUMOUR}),
        ({"background": 0, "whole tumour": 1}, {1: TUMOUR}),
        ({"background": 0, "oedema": 1, "resection cavity": 2}, {1: OEDEMA, 2: NONE}),
        ({"background": 0, "liver": 1}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_data_set_names_its_labels(
    names: dict[str, object], canonical: dict[int, int] | None
) -> None:
    assert canonical_names(names) == canonical
    if canonical:
        found = read(tuple(canonical), listed=canonical)
        assert found.labels.tolist() == [0, *canonical.values()]
        assert found.convention == "dataset.json"


def test_targets_are_sets_of_parts() -> None:
    labels = np.arange(5, dtype=np.uint8).reshape(1, 1, 5)
    marked = {"whole": [0, 1, 1, 1, 1], "core": [0, 1, 0, 1, 0], "enhancing": [0, 0, 0, 1, 0]}
    assert {name: target_mask(labels, name).ravel().tolist() for name in marked} == marked


def judge(image: np.ndarray, labels: np.ndarray, shared: bool = True) -> None:
    check_on_image(LabelMap(PATH, labels, "", False), image, shared=shared)


def head(noise: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A ball of brain, in exact zeros or in noise, and a tumour in it: (S, H, W)."""
    z, y, x = np.mgrid[-10:10, -40:40, -40:40]
    stream = np.random.default_rng(0)
    brain = np.hypot(y, x) < 30
    image = np.where(brain, stream.normal(300, 20, brain.shape), 0)
    if noise:
        image += np.abs(stream.normal(0, 5, image.shape))
    tumour = (np.hypot(y - 8, x) < 10) & (np.abs(z) < 8)
    return image.astype(np.float32), tumour.astype(np.uint8)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_masks_that_are_no_tumour_of_the_image_are_refused(noise: bool, shared: bool) -> None:
    image, tumour = head(noise)
    judge(image, tumour, shared)
    judge(image, 0 * tumour, shared)
    for wrong in (image > 150, np.roll(tumour, 200, axis=0) + (image > 150)):
        with pytest.raises(UserError, match=r"P_seg.nii.gz marks \d+% of the brain"):
            judge(image, wrong.astype(np.uint8), shared)


def test_a_mask_on_the_background_is_refused_where_the_background_is_sure() -> None:
    image, tumour = head()
    small = np.zeros_like(tumour)
    small[10, 1, 1:4] = 1
    said = r"P_seg.nii.gz: \d+% of the mask lies on the background"
    for wrong in ((image == 0).astype(np.uint8), np.roll(tumour, 25, axis=1), small):
        with pytest.raises(UserError, match=said):
            judge(image, wrong)
    judge(np.full_like(image, 7), tumour)  # a constant image says nothing

"""One volume under two names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from seglab.data.duplicates import SAME, Fingerprint, duplicates, fingerprint
from seglab.data.phantom import make_patient

SLICES = 12
Change = Callable[[np.ndarray], np.ndarray]


def touch_up(image: np.ndarray) -> np.ndarray:
    stream = np.random.default_rng(0)
    touched = image.copy()
    where = stream.random(image.shape) < 0.003
    touched[where] = stream.permutation(image[where])
    return touched


CHANGES: dict[str, Change] = {
    "linear": lambda image: 3.5 * image - 40,
    "power": lambda image: image**0.7,
    "one row": lambda image: np.roll(image, 1, axis=1),
    "row and column": lambda image: np.roll(image, (1, 1), axis=(1, 2)),
    "one slice up": lambda image: np.roll(image, 1, axis=0),
    "one slice down": lambda image: np.roll(image, -1, axis=0),
    "touched up": touch_up,
}


@pytest.fixture(scope="module")
def volumes() -> list[tuple[np.ndarray, np.ndarray]]:
    patients = [make_patient(1, number, size=240, slices=SLICES) for number in range(1, 5)]
    return [(p.image[..., 0], (p.labels > 0).astype(np.uint8)) for p in patients]


def printed(name: str, image: np.ndarray, mask: np.ndarray, first: int = 0) -> Fingerprint:
    indices = np.arange(first, first + len(image), dtype=np.int32)
    return fingerprint(name, image.astype(np.float32), mask, indices)


def test_different_patients_are_no_duplicates(
    volumes: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    assert duplicates([printed(str(i), *volume) for i, volume in enumerate(volumes)]) == ()
    assert duplicates([printed("alone", *volumes[0])]) == ()
    assert duplicates([]) == ()


def test_copy_is_identical(volumes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    (found,) = duplicates([printed("a", *volumes[0]), printed("b", *volumes[0])])
    assert (found.first, found.second, found.identical) == ("a", "b", True)
    assert found.similarity == pytest.approx(1, abs=1e-3)
    assert found.mask_dice == pytest.approx(1)


@pytest.mark.parametrize("change", CHANGES)
def test_near_duplicate_is_found_among_others(
    volumes: list[tuple[np.ndarray, np.ndarray]], change: str
) -> None:
    image, mask = volumes[2]
    others = [printed(str(i), *volume) for i, volume in enumerate(volumes)]
    (found,) = duplicates([*others, printed("again", CHANGES[change](image), mask)])
    assert {found.first, found.second} == {"2", "again"}
    assert SAME <= found.similarity <= 1
    assert not found.identical


def test_part_of_a_stack_is_found_by_its_slice_numbers(
    volumes: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    image, mask = volumes[0]
    part = printed("part", image[5:8], mask[5:8], first=5)
    (found,) = duplicates([printed("whole", image, mask), part])
    assert found.slices == 3
    elsewhere = printed("part", image[5:8], mask[5:8], first=8)
    assert duplicates([printed("whole", image, mask), elsewhere]) == ()


def test_other_masks_on_one_image_are_told(volumes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image, mask = volumes[0]
    (none,) = duplicates([printed("a", image, mask), printed("b", image, 0 * mask)])
    assert none.mask_dice == 0
    (blank,) = duplicates([printed("a", image, 0 * mask), printed("b", image, 0 * mask)])
    assert np.isnan(blank.mask_dice)


def test_blank_volumes_are_not_compared() -> None:
    blank = np.zeros((4, 32, 32), np.float32)
    mask = blank.astype(np.uint8)
    assert duplicates([printed("a", blank, mask), printed("b", blank, mask)]) == ()

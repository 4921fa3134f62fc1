"""One volume under two names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seglab.data.duplicates import SAME, Fingerprint, duplicates, fingerprint
from seglab.data.phantom.patient import make_patient
from seglab.data.sources.base import open_source

Change = Callable[[np.ndarray], np.ndarray]


def touch_up(image: np.ndarray) -> np.ndarray:
    stream = np.random.default_rng(0)
    return np.where(stream.random(image.shape) < 0.003, stream.permuted(image), image)


CHANGES: dict[str, Change] = {
    "linear": lambda image: 3.5 * image - 40,
    "power": lambda image: image**0.7,
    "row and column": lambda image: np.roll(image, (1, 1), axis=(1, 2)),
    "one slice up": lambda image: np.roll(image, 1, axis=0),
    "one slice down": lambda image: np.roll(image, -1, axis=0),
    "touched up": touch_up,
}


@pytest.fixture(scope="module")
def volumes() -> list[np.ndarray]:
    return [make_patient(1, n, size=240, slices=12).image[..., 0] for n in range(1, 5)]


def printed(name: str, image: np.ndarray, first: int = 0) -> Fingerprint:
    indices = np.arange(first, first + len(image), dtype=np.int32)
    return fingerprint(name, image.astype(np.float32), indices)


def test_a_copy_is_identical_and_others_are_not(volumes: list[np.ndarray]) -> None:
    assert duplicates([printed(str(i), volume) for i, volume in enumerate(volumes)]) == ()
    assert duplicates([printed("single", volumes[0])]) == duplicates([]) == ()
    (found,) = duplicates([printed("a", volumes[0]), printed("b", volumes[0])])
    assert (found.patients, found.identical) == (("a", "b"), True)
    assert found.similarity == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("change", CHANGES)
def test_near_duplicate_is_found_among_others(volumes: list[np.ndarray], change: str) -> None:
    others = [printed(str(i), volume) for i, volume in enumerate(volumes)]
    (found,) = duplicates([*others, printed("again", CHANGES[change](volumes[2]))])
    assert found.patients == ("2", "again")
    assert SAME <= found.similarity <= 1
    assert not found.identical


def test_part_of_a_stack_is_found_by_its_slice_numbers(volumes: list[np.ndarray]) -> None:
    part = volumes[0][5:8]
    (found,) = duplicates([printed("whole", volumes[0]), printed("part", part, first=5)])
    assert found.slices == 3
    assert duplicates([printed("whole", volumes[0]), printed("part", part, first=8)]) == ()


@pytest.mark.real_data
def test_h5_slices_are_known_again_in_the_nifti_volume(shared_data: Path) -> None:
    prints = []
    for name, folder in (("brats-h5", "brats20_h5"), ("brats-nifti", "brats20_nifti")):
        source = open_source(name, shared_data / folder)
        for patient in source.patients():
            if patient.patient_id[-3:] in ("022", "131"):
                volume = source.read(patient, ("flair",))
                label = f"{patient.patient_id} {name}"
                prints.append(fingerprint(label, volume.images[0], volume.slice_indices))
    pairs = [[name[:20] for name in one.patients] for one in duplicates(prints)]
    assert len(pairs) == 2
    assert all(first == second for first, second in pairs)

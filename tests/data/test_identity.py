"""What an image shows of its own identity: closed forms, invariance, phantoms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglab.data.identity import (
    Appearance,
    appearance,
    image_identity,
    median_appearance,
    set_identity,
    tissue,
)
from seglab.data.phantom import PhantomPatient, make_patient

SIDE = 120
FLAIR, T1, T1CE, T2 = range(4)


def disk(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.hypot(y - row, x - column) <= radius


def head(spots: float, lesion: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy head of mean 100 and σ 5, a spot on either side (axis 0), a lesion on one."""
    image = np.zeros((SIDE, SIDE), np.float32)
    inside = disk(60, 60, 45)
    image[inside] = np.random.default_rng(0).normal(100, 5, inside.sum())
    for row in (48, 72):
        image[disk(row, 60, 6)] = spots
    mark = disk(45, 80, 9)
    image[mark] = lesion
    return image, mark


def look(image: np.ndarray, lesion: np.ndarray, axis: int = 0) -> Appearance:
    outline, inside = tissue(image)
    return appearance(image, outline, inside, lesion, axis)


def test_without_a_spread_there_is_no_unit_to_measure_in() -> None:
    image, mark = head(spots=100, lesion=50)
    image[disk(60, 60, 45) & ~mark] = 100
    assert np.isnan(look(image, mark).lesion_z)


NOTHING = np.zeros((SIDE, SIDE), bool)


@pytest.fixture(scope="module")
def phantoms() -> list[PhantomPatient]:
    return [make_patient(3, number, size=64, slices=24) for number in range(1, 5)]


def test_tissue_is_the_head_and_what_lies_deep_in_it() -> None:
    image, _ = head(spots=0)
    outline, inside = tissue(image)
    true = disk(60, 60, 45)
    assert 2 * (outline & true).sum() / (outline.sum() + true.sum()) > 0.97
    # Holes belong to the head; a tenth of √area = 8 px are cut off all around.
    assert outline[48, 60]
    assert (inside & ~disk(60, 60, 40)).sum() == 0
    assert (disk(60, 60, 34) & ~inside).sum() == 0


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((64, 64), 7.0), np.eye(64)])
def test_slice_without_a_head_tells_nothing(image: np.ndarray) -> None:
    outline, inside = tissue(image.astype(np.float32))
    assert not outline.any()
    assert not inside.any()
    verdict = image_identity(image[None].astype(np.float32))
    assert verdict.ok
    assert verdict.slices == 0
    assert "too little" in verdict.reason


def test_lesion_is_measured_in_deviations_of_healthy_tissue() -> None:
    image, mark = head(spots=100, lesion=120)
    # (120 − 100) / 5, but for the spots, which narrow the interquartile range a little.
    assert look(image, mark).lesion_z == pytest.approx(4, rel=0.1)
    assert np.isnan(look(image, NOTHING).lesion_z)


def test_symmetric_spots_decide_and_a_lesion_on_one_side_does_not() -> None:
    bright, dark = (look(head(spots)[0], NOTHING).csf_brightness for spots in (180, 20))
    assert bright > 0.5
    assert dark < -0.5
    with_lesion = look(head(20, lesion=250)[0], NOTHING).csf_brightness
    assert with_lesion == pytest.approx(dark, abs=0.1)


def test_mirror_axis_is_that_of_left_and_right() -> None:
    image, _ = head(180)
    across = look(np.ascontiguousarray(image.T), NOTHING, axis=1)
    assert across.csf_brightness == pytest.approx(look(image, NOTHING).csf_brightness, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.01, 100), offset=st.floats(-50, 50), spots=st.sampled_from([30.0, 170.0]))
def test_scale_and_offset_of_the_scanner_change_nothing(
    scale: float, offset: float, spots: float
) -> None:
    image, mark = head(spots, lesion=130)
    plain = look(image, mark)
    moved = look((scale * (image + offset)).astype(np.float32), mark)
    assert moved.lesion_z == pytest.approx(plain.lesion_z, rel=0.02)
    assert moved.csf_brightness == pytest.approx(plain.csf_brightness, abs=0.02)


def test_median_leaves_the_unknown_out() -> None:
    nan = float("nan")
    found = median_appearance([Appearance(1, nan), Appearance(nan, nan), Appearance(4, nan)])
    assert found.lesion_z == 2.5
    assert np.isnan(found.csf_brightness)


def test_flair_phantoms_pass_with_and_without_a_mask(phantoms: list[PhantomPatient]) -> None:
    for patient in phantoms:
        flair = patient.image[..., FLAIR]
        assert image_identity(flair).ok
        assert image_identity(flair, (patient.labels > 0).astype(np.uint8)).ok


def test_t2_phantoms_are_told_by_their_csf_alone(phantoms: list[PhantomPatient]) -> None:
    verdicts = [image_identity(patient.image[..., T2]) for patient in phantoms]
    assert not any(verdict.ok for verdict in verdicts)
    assert f"CSF brightness {verdicts[0].csf_brightness:+.2f}" in verdicts[0].reason


@pytest.mark.parametrize(("channel", "ok"), [(FLAIR, True), (T1, False), (T1CE, False)])
def test_set_is_judged_by_its_tumours(
    phantoms: list[PhantomPatient], channel: int, ok: bool
) -> None:
    verdict = set_identity(
        [image_identity(p.image[..., channel], (p.labels > 0).astype(np.uint8)) for p in phantoms]
    )
    assert verdict.ok is ok
    assert f"tumour {verdict.lesion_z:+.1f} σ" in verdict.reason

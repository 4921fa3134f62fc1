"""What figures say of a name, and which real images they prove."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seglab.core.config import MODALITIES
from seglab.data.identity import SKULL, Figures, ModalityIdentity, identify, measure
from seglab.data.sources.base import open_source

NAN = float("nan")
TYPICAL = {
    "flair": Figures(-0.3, 4.0, 0.3, 9.0, 0.0),
    "t1": Figures(-0.3, -0.5, 0.1, 2.0, 0.0),
    "t1ce": Figures(-0.3, -0.5, 4.0, 8.0, 0.0),
    "t2": Figures(0.5, 2.0, -0.3, 9.0, 0.1),
}
"""Medians of BraTS 2020."""


def judged(named: str, figures: Figures) -> ModalityIdentity:
    return identify([{named: figures._replace(slices=15)}], [named]).modalities[0]


@pytest.mark.parametrize("named", MODALITIES)
@pytest.mark.parametrize("true", MODALITIES)
def test_typical_images_are_proven_or_told_wrong(true: str, named: str) -> None:
    found = judged(named, TYPICAL[true])
    assert found.looks_like == [true]
    assert found.verdict == ("proven" if named == true else "wrong")


@given(st.tuples(*[st.one_of(st.just(NAN), st.floats(-20, 20))] * 5))
def test_a_name_is_proven_only_where_no_other_can_be(values: tuple[float, ...]) -> None:
    found = {name: judged(name, Figures(*values)) for name in MODALITIES}
    proven = [name for name, one in found.items() if one.verdict == "proven"]
    assert len(proven) <= 1
    if proven:
        assert all(one.verdict == "wrong" for name, one in found.items() if name not in proven)
    assert all(one.reason for one in found.values())


def test_what_is_wrong_is_told_with_figure_and_limit() -> None:
    reason = judged("flair", TYPICAL["t2"]).reason
    assert reason == "looks like T2, not FLAIR: CSF brightness +0.50 (FLAIR: below +0.28)"
    assert "oedema -0.5 σ (FLAIR: above +1.1)" in judged("flair", TYPICAL["t1"]).reason
    unlabelled = TYPICAL["t1"]._replace(enhancement_z=NAN)
    assert "brightest tissue +2.0 σ" in judged("t1ce", unlabelled).reason


def test_what_cannot_be_proven_is_told_with_what_is_missing() -> None:
    merged = TYPICAL["t1ce"]._replace(enhancement_z=NAN, skull_fall=0.5)
    reason = "may be T1 or T1ce: no enhancing part is labelled, the skull is on"
    assert [judged(name, merged).reason for name in ("t1", "t1ce")] == [reason] * 2
    unlabelled = TYPICAL["flair"]._replace(oedema_z=NAN, enhancement_z=NAN)
    assert "no tumour is outlined" in judged("flair", unlabelled).reason
    between = TYPICAL["flair"]._replace(oedema_z=0.8, enhancement_z=NAN)
    assert "oedema +0.8 σ is between +0.6 and +1.1" in judged("flair", between).reason


SIDE = 120
OEDEMA, ENHANCING, MERGED = 2, 3, 4
Tally = Counter[tuple[str, str]]


def merged(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, MERGED, 0).astype(np.uint8)


def tallies(source: str, root: Path, *masks: str) -> list[Tally]:
    """Verdicts of all patients by modality, one tally for each kind of mask."""
    opened, found = open_source(source, root), [Counter() for _ in masks]
    for patient in opened.patients():
        volume = opened.read(patient, tuple(patient.images))
        kinds = {"parts": volume.labels, "merged": merged(volume.labels), "none": None}
        axis, names = opened.mirror_axis, volume.modalities
        for tally, kind in zip(found, masks, strict=True):
            figures = measure(volume.images, names, kinds[kind], mirror_axis=axis)
            tally.update(
                (one.modality, one.verdict) for one in identify([figures], names).modalities
            )
    return found


def verdicts(word: str, **counts: int) -> Tally:
    return Counter({(name, word): count for name, count in counts.items()})


@pytest.mark.real_data
@pytest.mark.slow
def test_every_real_volume_is_proven(shared_data: Path) -> None:
    found = tallies("brats-nifti", shared_data / "brats20_nifti", "parts", "merged")
    assert found == [verdicts("proven", flair=18, t1=12, t1ce=8, t2=2)] * 2


@pytest.mark.real_data
def test_without_a_mask_flair_and_t1ce_are_not_told_apart(shared_data: Path) -> None:
    root = shared_data / "brats23_nifti"
    parts, whole, without = tallies("brats-nifti", root, "parts", "merged", "none")
    assert parts == whole == verdicts("proven", flair=1, t1=1, t1ce=1, t2=1)
    unsure = verdicts("not provable", flair=1, t1ce=1)
    assert without == verdicts("proven", t1=1, t2=1) + unsure


@pytest.mark.real_data
def test_lgg_set_proves_flair_and_lacks_a_repeated_channel(shared_data: Path) -> None:
    unsure = verdicts("not provable", flair=1, t1=14, t1ce=13)
    (found,) = tallies("lgg-tif", shared_data / "lgg_tif", "parts")
    assert found == verdicts("proven", flair=13) + unsure


def disk(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.hypot(y - row, x - column) <= radius


def brain(spots: float, lesion: float = 100.0, core: float = 100.0) -> tuple[np.ndarray, ...]:
    """A noisy brain of mean 100 and σ 5, a spot on either side (axis 0), a lesion on one."""
    image = np.zeros((SIDE, SIDE), np.float32)
    inside = disk(60, 60, 45)
    image[inside] = np.random.default_rng(0).normal(100, 5, inside.sum())
    for row in (48, 72):
        image[disk(row, 60, 6)] = spots
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disk(45, 80, 9)] = OEDEMA
    labels[disk(45, 80, 4)] = ENHANCING
    image[labels > 0] = lesion
    image[labels == ENHANCING] = core
    return image, labels


def look(image: np.ndarray, labels: np.ndarray | None = None, axis: int = 0) -> Figures:
    stack = None if labels is None else np.stack([labels] * 3)
    return measure(np.stack([image] * 3)[None], ("flair",), stack, mirror_axis=axis)["flair"]


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((64, 64), 7.0), np.eye(64)])
def test_slice_without_a_head_tells_nothing(image: np.ndarray) -> None:
    figures = look(image.astype(np.float32))
    assert figures.slices == 0
    assert all(np.isnan(value) for value in figures[:5])


def test_tumour_is_measured_in_deviations_of_healthy_tissue() -> None:
    # (120 − 100) / 5, but for the spots, which narrow the interquartile range a little.
    image, labels = brain(spots=100, lesion=120, core=160)
    found, whole, unlabelled = look(image, labels), look(image, merged(labels)), look(image)
    assert found.oedema_z == pytest.approx(4, rel=0.1)
    assert found.enhancement_z == pytest.approx(8, rel=0.1)
    assert found.bright_tail == pytest.approx(12, rel=0.1)
    assert whole.oedema_z == pytest.approx(4, rel=0.1)  # its edge stands for the oedema
    assert np.isnan([whole.enhancement_z, unlabelled.enhancement_z, unlabelled.oedema_z]).all()
    assert unlabelled.bright_tail > 8


def test_symmetric_spots_decide_and_a_lesion_on_one_side_does_not() -> None:
    image = brain(180)[0]
    bright, dark = (look(each).csf_brightness for each in (image, brain(20)[0]))
    assert bright > 0.5
    assert dark < -0.5
    with_lesion = look(brain(20, lesion=250)[0]).csf_brightness
    assert with_lesion == pytest.approx(dark, abs=0.1)
    across = look(np.ascontiguousarray(image.T), axis=1).csf_brightness
    assert across == pytest.approx(bright, abs=1e-3)


@settings(max_examples=25)
@given(scale=st.floats(0.01, 100), offset=st.floats(-50, 50), spots=st.sampled_from([30.0, 170.0]))
def test_scale_and_offset_change_nothing(scale: float, offset: float, spots: float) -> None:
    image, labels = brain(spots, lesion=130, core=150)
    plain = look(image, labels)
    moved = look((scale * (image + offset)).astype(np.float32), labels)
    np.testing.assert_allclose(moved, plain, rtol=0.02, atol=0.02)


def skull_fall(skull: bool, size: int, scale: float, shift: float) -> float:
    """Of five slices of brain, about 1, and with ``skull`` of bone and scalp of 1.5 around it."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x / 0.7, y / 0.85)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=radius.shape), 2)
    around = np.select([radius < 0.9, radius <= 1], [0.3, 1.5], 0) if skull else 0
    image = np.where(radius < 0.8, 1 + 0.1 * noise / noise.std(), around)
    stack = np.stack([scale * image + shift] * 5).astype(np.float32)
    return measure(stack[None], ("t1",))["t1"].skull_fall


@settings(max_examples=40)
@given(scale=st.floats(0.01, 3000), shift=st.floats(-500, 500), size=st.integers(64, 160))
def test_only_the_skull_makes_brightness_fall(scale: float, shift: float, size: int) -> None:
    assert skull_fall(True, size, scale, shift) > 2 * SKULL
    assert skull_fall(False, size, scale, shift) < SKULL / 2

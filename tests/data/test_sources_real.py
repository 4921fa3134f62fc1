"""The three sources on real MRI."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from seglab.data.names import shared_patients
from seglab.data.sources.base import Source, open_source
from seglab.data.volume import Patient, Volume

pytestmark = pytest.mark.real_data


@cache
def opened(name: str, root: Path) -> tuple[Source, dict[str, Patient]]:
    source = open_source(name, root)
    return source, {patient.patient_id: patient for patient in source.patients()}


def both(root: Path, volume: int, *modalities: str) -> tuple[Volume, Volume]:
    """One patient from the slice files, and from the NIfTI volume."""
    found = []
    for name, folder in (("brats-h5", "brats20_h5"), ("brats-nifti", "brats20_nifti")):
        source, patients = opened(name, root / folder)
        found.append(source.read(patients[f"BraTS20_Training_{volume:03d}"], modalities))
    return found[0], found[1]


@pytest.mark.parametrize("volume", [22, 32, 45, 230])
def test_h5_slices_are_those_of_the_nifti_volume(shared_data: Path, volume: int) -> None:
    ours, full = both(shared_data, volume, "flair", "t1")
    assert ours.shared_scales == (True, True)
    np.testing.assert_array_equal(ours.images, full.images[:, ours.slice_indices])
    np.testing.assert_array_equal(ours.labels > 0, full.labels[ours.slice_indices] > 0)
    assert ours.stack_size == full.stack_size == 155
    assert ours.spacing_mm == full.spacing_mm


@pytest.mark.parametrize("volume", [131, 134])
def test_h5_slices_are_the_nifti_volume_but_for_its_scale(shared_data: Path, volume: int) -> None:
    """The NIfTI file has another scale and offset, and labels 1 to 4."""
    ours, full = both(shared_data, volume, "flair")
    restored, stored = ours.images.ravel(), full.images[:, ours.slice_indices].ravel()
    slope, offset = np.polyfit(restored, stored, 1)
    np.testing.assert_allclose(restored * slope + offset, stored, atol=1e-4)
    # Labels 3 of the NIfTI file are non-enhancing core: so the h5 planes have them.
    np.testing.assert_array_equal(ours.labels, full.labels[ours.slice_indices])
    assert full.convention == "brats2012"


def test_shares_of_slices_that_are_whole_numbers(shared_data: Path) -> None:
    source, patients = opened("brats-h5", shared_data / "brats20_h5")
    fit = dict.fromkeys(source.modalities, 0)
    for patient in patients.values():
        volume = source.read(patient, source.modalities, with_labels=False)
        for modality, shared in zip(volume.modalities, volume.shared_scales, strict=True):
            fit[modality] += shared * len(volume.slice_indices)
    # Two slices of volume 355, one of 357, fit in T1 or T2 beside another that does not.
    assert fit["flair"] == 96
    assert fit["t1ce"] == 103
    assert fit["t1"] >= 97
    assert fit["t2"] >= 94


@pytest.mark.parametrize(
    ("name", "folder", "conventions"),
    [
        ("brats-h5", "brats20_h5", {"planes": 86}),
        ("brats-nifti", "brats20_nifti", {"binary": 10, "brats2012": 6, "brats2017": 2}),
        ("brats-nifti", "brats23_nifti", {"brats2017": 1}),
        ("lgg-tif", "lgg_tif", {"binary": 14}),
    ],
)
def test_every_mask_is_read_and_believed_on_every_modality(
    shared_data: Path, name: str, folder: str, conventions: dict[str, int]
) -> None:
    source, patients = opened(name, shared_data / folder)
    found: Counter[str] = Counter()
    for patient in patients.values():
        names = tuple(patient.images)
        ends = dict.fromkeys((names[0], names[-1]))
        volumes = [source.read(patient, (modality,)) for modality in ends]
        assert all(volume.labels.any() for volume in volumes)
        found[volumes[0].convention] += 1
        assert not any("apart" in text for volume in volumes for text in volume.remarks)
    assert found == conventions


def test_lgg_modalities_are_the_channels_of_the_file(shared_data: Path) -> None:
    source, patients = opened("lgg-tif", shared_data / "lgg_tif")
    patient = patients["TCGA_DU_7008_19830723"]
    volume = source.read(patient, ("t1", "flair", "t1ce"))
    for index, path in enumerate(patient.images["flair"]):
        blue_green_red = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected = np.moveaxis(blue_green_red[..., ::-1], -1, 0)
        np.testing.assert_array_equal(volume.images[:, index], expected)
        drawn = cv2.imread(str(path.with_name(f"{path.stem}_mask.tif")), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(volume.labels[index] > 0, drawn > 0)
    assert volume.grade == "G2"


def test_every_lgg_patient_is_a_brats_patient_too(shared_data: Path) -> None:
    h5_source, _ = opened("brats-h5", shared_data / "brats20_h5")
    _, lgg = opened("lgg-tif", shared_data / "lgg_tif")
    everyone = [f"BraTS20_Training_{number:03d}" for number in range(1, 370)]
    pairs = shared_patients(everyone, lgg, h5_source.names)
    assert sorted(twin for _, twin in pairs) == sorted(lgg)

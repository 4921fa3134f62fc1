"""The three sources on real MRI."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from seglab.data.sources import Patient, Source, open_source, shared_patients

pytestmark = pytest.mark.real_data
IN_BOTH = (22, 32, 45, 131, 134, 230)


@cache
def opened(name: str, root: Path) -> tuple[Source, dict[str, Patient]]:
    source = open_source(name, root)
    return source, {patient.patient_id: patient for patient in source.patients()}


@pytest.mark.parametrize(
    ("name", "folder", "patients", "slices"),
    [("brats-h5", "brats20_h5", 86, 103), ("lgg-tif", "lgg_tif", 14, 440)],
)
def test_counts(shared_data: Path, name: str, folder: str, patients: int, slices: int) -> None:
    source, found = opened(name, shared_data / folder)
    assert len(found) == patients
    assert sum(len(source.read(patient).image) for patient in found.values()) == slices


def test_listing_names_every_absent_slice(shared_data: Path) -> None:
    source, _ = opened("brats-h5", shared_data / "brats20_h5")
    assert len(source.missing_files()) == 57_195 - 103


@pytest.mark.parametrize("volume", IN_BOTH)
def test_h5_flair_is_the_z_scored_nifti_slice(shared_data: Path, volume: int) -> None:
    patient_id = f"BraTS20_Training_{volume:03d}"
    h5_source, h5_patients = opened("brats-h5", shared_data / "brats20_h5")
    nifti_source, nifti_patients = opened("brats-nifti", shared_data / "brats20_nifti")
    ours = h5_source.read(h5_patients[patient_id])
    full = nifti_source.read(nifti_patients[patient_id])
    raw = full.image[ours.slice_indices].astype(np.float64)
    frame = (1, 2)
    expected = (raw - raw.mean(frame, keepdims=True)) / raw.std(frame, keepdims=True)
    # float32 rounding of values up to about 10: nothing else may differ.
    np.testing.assert_allclose(ours.image, expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(ours.mask, full.mask[ours.slice_indices])
    assert ours.stack_size == full.stack_size == 155
    assert ours.spacing_mm == full.spacing_mm


def test_lgg_channel_is_the_second_of_the_file(shared_data: Path) -> None:
    source, patients = opened("lgg-tif", shared_data / "lgg_tif")
    patient = patients["TCGA_DU_7008_19830723"]
    volume = source.read(patient)
    images = [path for path in patient.files if "mask" not in path.name]
    for path, image, mask in zip(images, volume.image, volume.mask, strict=True):
        blue_green_red = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(image, blue_green_red[..., ::-1][..., 1])
        drawn = cv2.imread(str(path.with_name(f"{path.stem}_mask.tif")), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, drawn // 255)
    assert volume.grade == "G2"


def test_every_lgg_patient_is_a_brats_patient_too(shared_data: Path) -> None:
    h5_source, _ = opened("brats-h5", shared_data / "brats20_h5")
    _, lgg = opened("lgg-tif", shared_data / "lgg_tif")
    everyone = [f"BraTS20_Training_{number:03d}" for number in range(1, 370)]
    pairs = shared_patients(everyone, lgg, h5_source.names)
    assert sorted(twin for _, twin in pairs) == sorted(lgg)


def test_grades_come_from_the_name_mapping(shared_data: Path) -> None:
    _, patients = opened("brats-h5", shared_data / "brats20_h5")
    assert {patient.grade for patient in patients.values()} == {"HGG", "LGG"}

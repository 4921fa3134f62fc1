"""Which file is whose and what: by name alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.data.names import natural_key, nifti_patients
from seglab.data.volume import Patient

FOUR = ("flair", "t1", "t1ce", "t2")
BRATS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


def found(tmp_path: Path, *names: str, strict: bool = True) -> list[Patient]:
    """Patients among files of these names, and any dataset.json that was written."""
    return nifti_patients([tmp_path / name for name in names], strict=strict)


def names_of(patient: Patient) -> dict[str, str]:
    return {modality: paths[0].name for modality, paths in patient.images.items()}


@pytest.mark.parametrize(
    ("patient_id", "parts", "segmentation"),
    [
        ("Brats18_2013_11_1", ("_flair", "_t1", "_t1ce", "_t2"), "_seg"),
        ("BraTS20_Training_001", ("_flair", "_t1", "_t1ce", "_t2"), "_seg"),
        ("BraTS-GLI-00145-000", ("-t2f", "-t1n", "-t1c", "-t2w"), "-seg"),
        ("BraTS-GLI-00145-001", ("_t2f", "_t1n", "_t1c", "_t2w"), "_seg"),
        ("UPENN-GBM-00001_11", ("_FLAIR", "_T1", "_T1GD", "_T2"), "_segm"),
        ("UCSF-PDGM-0004", ("_FLAIR", "_T1", "_T1c", "_T2"), "_tumor_segmentation"),
        ("sub-01_ses-02", ("_FLAIR", "_T1w", "_ce-gadolinium_T1w", "_T2w"), "_dseg"),
        ("sub-7", ("_FLAIR", "_acq-3D_T1w", "_acq-3D_ce-gd_T1w", "_T2w"), "_label-lesion_mask"),
    ],
)
def test_families_of_names(
    tmp_path: Path, patient_id: str, parts: tuple[str, ...], segmentation: str
) -> None:
    files = [f"{patient_id}{part}.nii.gz" for part in (*parts, segmentation)]
    (patient,) = found(tmp_path, *files)
    assert patient.patient_id == patient_id
    assert names_of(patient) == dict(zip(FOUR, files, strict=False))
    assert [path.name for path in patient.label_files] == files[4:]


def test_files_named_by_modality_alone_belong_to_their_folder(tmp_path: Path) -> None:
    first, second = found(tmp_path, "a/FLAIR.nii", "a/seg.nii", "b/flair.nii", "b/t1ce.nii.gz")
    assert (first.patient_id, second.patient_id) == ("a", "b")
    assert first.label_files == (tmp_path / "a/seg.nii",)
    assert second.modalities == ("flair", "t1ce")


def write_dataset(root: Path, **content: object) -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return f"{root.name}/dataset.json"


def test_nnunet_files_are_told_by_their_dataset(tmp_path: Path) -> None:
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": 3}
    dataset = write_dataset(tmp_path / "D", channel_names={"0": "T1", "1": "FLAIR"}, labels=regions)
    files = ["D/imagesTr/case_1_0000.nii.gz", "D/imagesTr/case_1_0001.nii.gz"]
    (patient,) = found(tmp_path, dataset, *files, "D/labelsTr/case_1.nii.gz")
    assert patient.patient_id == "case_1"
    assert names_of(patient) == {"t1": "case_1_0000.nii.gz", "flair": "case_1_0001.nii.gz"}
    assert patient.label_files == (tmp_path / "D/labelsTr/case_1.nii.gz",)
    assert patient.label_map == {1: 2, 2: 1, 3: 3}
    assert not patient.channels


def test_volumes_of_four_modalities_are_told_by_their_dataset(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    dataset = write_dataset(tmp_path / "Task01", modality=BRATS, labels=labels)
    files = ["Task01/imagesTr/BRATS_001.nii.gz", "Task01/labelsTr/BRATS_001.nii.gz"]
    (patient,) = found(tmp_path, dataset, *files)
    assert patient.channels == {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
    assert set(names_of(patient).values()) == {"BRATS_001.nii.gz"}
    assert patient.label_map == {1: 2, 2: 1, 3: 3}


def test_a_damaged_dataset_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json is not the description"):
        found(tmp_path, "dataset.json")


@pytest.mark.parametrize(
    "name",
    ["P_brainmask", "P_brain_mask", "P_brain_segmentation", "P_aseg", "P_desc-brain_mask",
     "P_segmented", "P_unmasked", "P_label-WM_mask", "P_flair_pred"],
)  # fmt: skip
def test_other_masks_are_no_tumour(tmp_path: Path, name: str) -> None:
    (patient,) = found(tmp_path, "P_flair.nii", f"{name}.nii.gz")
    assert patient.label_files == ()


def test_a_plain_name_goes_before_a_longer_one_and_others_are_not_guessed(tmp_path: Path) -> None:
    several = ("P_flair.nii", "P_automated_segm.nii", "P_other_segm.nii")
    (patient,) = found(tmp_path, *several)
    assert len(patient.label_files) == 2
    (patient,) = found(tmp_path, *several, "labels/P_segm.nii")
    assert [path.name for path in patient.label_files] == ["P_segm.nii"]


def test_a_segmentation_of_any_name_goes_to_the_only_patient_of_its_folder(tmp_path: Path) -> None:
    files = (
        "355/X_355_flair.nii",
        "355/W39_1998.09.19_Segm.nii",
        "1/X_1_flair.nii",
        "1/X_1_seg.nii",
    )
    first, second = found(tmp_path, *files)
    assert first.label_files == (tmp_path / "1/X_1_seg.nii",)
    assert second.label_files == (tmp_path / "355/W39_1998.09.19_Segm.nii",)
    for patient in found(tmp_path, "a_flair.nii", "b_flair.nii", "W39_Segm.nii"):
        assert not patient.label_files
    (alone,) = found(tmp_path, "a_flair.nii", "first_Segm.nii", "second_Segm.nii")
    assert not alone.label_files


def test_the_longest_name_owns_a_segmentation(tmp_path: Path) -> None:
    short, long = found(tmp_path, "P_1_flair.nii", "P_1_2_flair.nii", "P_1_2_seg.nii")
    assert (short.patient_id, short.label_files) == ("P_1", ())
    assert long.label_files == (tmp_path / "P_1_2_seg.nii",)


def test_folders_of_modalities_and_of_masks_are_joined(tmp_path: Path) -> None:
    files = ("flair/P_flair.nii", "t1/P_t1.nii", "derivatives/P_mask.nii")
    (patient,) = found(tmp_path, *files)
    assert patient.modalities == ("flair", "t1")
    assert patient.files == tuple(tmp_path / name for name in files)


def test_two_files_of_one_modality_are_an_error_or_two_scans(tmp_path: Path) -> None:
    files = ("a/P_flair.nii", "b/P_flair.nii", "b/P_seg.nii")
    with pytest.raises(UserError, match=r"a/P_flair\.nii and .*b/P_flair\.nii are both the flair"):
        found(tmp_path, *files)
    first, second = found(tmp_path, *files, strict=False)
    assert (first.label_files, len(second.label_files)) == ((), 1)


def test_files_without_a_modality_are_scans_of_their_own(tmp_path: Path) -> None:
    files = ("P_flair.nii", "P_DWI.nii", "other.nii.gz", "P_brainmask.nii", "P_flair_pred.nii")
    assert [patient.patient_id for patient in found(tmp_path, *files)] == ["P"]
    named = found(tmp_path, *files, strict=False)
    assert [patient.patient_id for patient in named] == ["P", "other"]


def test_natural_order() -> None:
    names = ["a10b2", "a2", "b1", "a10b1", "a", "a1²2", "٣"]
    ordered = sorted(names, key=natural_key)
    assert [name for name in ordered if name in names[:5]] == ["a", "a2", "a10b1", "a10b2", "b1"]

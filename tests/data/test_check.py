"""The check of a whole data set, on phantoms and on every fault that it must name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from seglab.core.config import MODALITIES
from seglab.data.check import CheckReport, check
from seglab.data.sources.base import open_source
from tests.data.files import save_nifti

PATIENTS, SLICES = 9, 12


@pytest.fixture
def phantoms(phantoms: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(phantoms, tmp_path / "phantoms")


def slice_path(root: Path, volume: int, index: int) -> Path:
    return next(root.rglob(f"volume_{volume}_slice_{index}.h5"))


def test_sound_set_has_its_counts_no_findings_and_the_agreed_keys(phantoms: Path) -> None:
    record, report = json.loads((phantoms / "phantom.json").read_text()), check_h5(phantoms)
    found = json.loads(json.dumps(report.found, allow_nan=False))
    assert (found["patients"], found["slices"]) == (PATIENTS, PATIENTS * SLICES)
    assert found["tumour_slices"] == record["tumour_slices"]
    assert report.ok
    for what in ("missing_files", "bad_files", "duplicates", "persons", "shared_patients"):
        assert not found[what]
    identity = found["identity"]
    assert identity.keys() == {"ok", "channel", "evidence", "modalities"}
    assert identity["channel"] == 0
    verdicts = {name: one["verdict"] for name, one in identity["modalities"].items()}
    assert list(verdicts.items()) == [(name, "proven") for name in MODALITIES]
    assert found["patient_list"][0]["modalities"] == list(MODALITIES)
    assert found["patient_list"][0]["labels"]


def check_h5(root: Path) -> CheckReport:
    return check(open_source("brats-h5", root))


def swap(root: Path, first: int, second: int) -> None:
    """Exchange two channels in every file."""
    for path in root.rglob("*.h5"):
        with h5py.File(path, "a") as file:
            image = file["image"][...]
            image[..., [first, second]] = image[..., [second, first]]
            file["image"][...] = image


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (0, 3, {"flair": "looks like T2, not FLAIR", "t2": "looks like FLAIR, not T2"}),
        (1, 2, {"t1": "looks like T1ce, not T1", "t1ce": "looks like T1, not T1ce"}),
    ],
)
def test_swapped_modalities_are_told(
    phantoms: Path, first: int, second: int, told: dict[str, str]
) -> None:
    swap(phantoms, first, second)
    report = check_h5(phantoms)
    assert not report.ok
    assert {one.modality: one.reason.split(":")[0] for one in report.identity.wrong} == told
    assert all(words in report.identity.reason for words in told.values())
    assert "WRONG" in report.to_text()


def drop_mask(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["mask"]


def spoil_image(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["image"][3, 3, 2] = np.nan


def halve(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for name in ("image", "mask"):
            values = file[name][::2]
            del file[name]
            file[name] = values


def test_bad_files_are_all_named_and_the_others_counted(phantoms: Path) -> None:
    faults: dict[Path, tuple[Callable[[Path], object], str]] = {
        slice_path(phantoms, 1, 0): (lambda path: os.truncate(path, 2000), "truncated"),
        slice_path(phantoms, 1, 9): (drop_mask, "no dataset 'mask'"),
        slice_path(phantoms, 2, 9): (spoil_image, "NaN"),
        slice_path(phantoms, 3, 9): (halve, "shape"),
    }
    for path, (spoil, _) in faults.items():
        spoil(path)
    slice_path(phantoms, 4, 5).unlink()
    report = check_h5(phantoms)
    reasons = {phantoms / bad["file"]: bad["reason"] for bad in report.found["bad_files"]}
    assert reasons.keys() == faults.keys()
    for path, (_, words) in faults.items():
        assert words in reasons[path]
        assert str(phantoms) not in reasons[path]
    assert report.found["missing_files"] == ["volume_4_slice_5.h5"]
    assert report.found["slices"] >= PATIENTS * SLICES - len(faults) - 1
    assert not report.ok


def test_set_without_one_readable_file_is_no_evidence(tmp_path: Path) -> None:
    (tmp_path / "volume_1_slice_0.h5").write_bytes(b"not HDF5")
    report = check_h5(tmp_path)
    assert (report.found["patients"], report.found["slices"], report.example) == (1, 0, None)
    assert [bad["file"] for bad in report.found["bad_files"]] == ["volume_1_slice_0.h5"]
    assert not report.identity.ok
    assert report.identity.reason == "nothing was measured"


def test_copy_under_another_name_is_found(phantoms: Path) -> None:
    for path in phantoms.rglob("volume_2_*.h5"):
        shutil.copy(path, path.with_name(path.name.replace("volume_2_", "volume_12_")))
    report = check_h5(phantoms)
    (found,) = report.found["duplicates"]
    assert list(found["patients"]) == ["Phantom_002", "Phantom_012"]
    assert found["identical"]
    assert "Phantom_002 = Phantom_012: every voxel is equal" in report.to_text()


def test_people_in_two_sources_and_with_two_names_are_told(phantoms: Path, tmp_path: Path) -> None:
    slice_path(phantoms, 1, 0).with_name("name_mapping.csv").write_text(
        "Grade,TCGA_TCIA_subject_ID,BraTS_2020_subject_ID\n"
        "LGG,TCGA-CS-5396,Phantom_001\n"
        "LGG,TCGA-CS-5396,Phantom_003\n"
        "LGG,TCGA-DU-7008,Phantom_004\n"
    )
    (lgg := tmp_path / "lgg").mkdir()
    for case in ("TCGA_DU_7008_19830723", "TCGA_HT_8018_19970411"):
        image = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
        image.save(lgg / f"{case}_1.tif")
        image.convert("L").save(lgg / f"{case}_1_mask.tif")
    ours, other = open_source("brats-h5", phantoms), open_source("lgg-tif", lgg)
    found = check(ours, others=[other]).found
    (shared,) = found["shared_patients"]
    assert (shared["patient"], shared["other"]) == ("Phantom_004", "TCGA_DU_7008_19830723")
    assert shared["source"].startswith("lgg-tif")
    (person,) = found["persons"]
    assert person["patients"] == ["Phantom_001", "Phantom_003"]
    assert "name_mapping.csv" in person["rule"]
    # The mapping lies with the other source.
    (back,) = check(other, others=[ours]).found["shared_patients"]
    assert back["other"] == "Phantom_004"


def test_patient_without_a_wanted_modality_or_segmentation_is_told(tmp_path: Path) -> None:
    ramp = np.arange(32 * 32 * 4, dtype=np.int16).reshape(32, 32, 4)
    for name in ("A_1_flair", "A_2_t1", "A_3_flair"):
        save_nifti(tmp_path / f"{name}.nii.gz", ramp)
    for name in ("A_1_seg", "A_2_seg"):
        save_nifti(tmp_path / f"{name}.nii.gz", 0 * ramp)
    source = open_source("brats-nifti", tmp_path)
    report = check(source)
    (first, second) = report.found["bad_files"]
    assert (first["file"], first["reason"]) == ("A_2", "it has no flair")
    assert (second["file"], second["reason"][:20]) == ("A_3", "has no segmentation:")
    assert "A_1 and 1 more: its mask marks no tumour" in report.found["surprises"]
    assert "labels: none" in report.to_text()
    assert report.found["slices"] == 8
    assert "flair (1 patient), t1 (1 patient)" in report.to_text()
    assert not any(bad["file"] == "A_2" for bad in check(source, ["t1"]).found["bad_files"])


@pytest.mark.real_data
def test_half_a_download_of_the_real_set_is_proven(shared_data: Path) -> None:
    report = check(open_source("brats-h5", shared_data / "brats20_h5"))
    found = report.found
    assert report.ok
    assert {one.verdict for one in report.identity.modalities} == {"proven"}
    assert (found["patients"], found["slices"], found["tumour_slices"]) == (86, 103, 103)
    assert len(found["missing_files"]) == 57_195 - 103
    assert not found["duplicates"]
    assert len(report.to_text().splitlines()) < 40

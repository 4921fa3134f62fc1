"""The check of a whole data set, on phantoms and on every fault that it must name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from seglab.core.errors import UserError
from seglab.data.check import CheckReport, check
from seglab.data.phantom import CONTENT, write_phantom
from seglab.data.sources import open_source

PATIENTS, SLICES = 4, 24


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("check") / "phantoms"
    write_phantom(out, patients=PATIENTS, size=64, slices=SLICES, seed=3, workers=1)
    return out


@pytest.fixture
def phantoms(pristine: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(pristine, tmp_path / "phantoms")


@pytest.fixture(scope="module")
def report(pristine: Path) -> CheckReport:
    return check(open_source("brats-h5", pristine))


def slice_path(root: Path, volume: int, index: int) -> Path:
    return root / CONTENT / f"volume_{volume}_slice_{index}.h5"


def test_sound_set_has_its_counts_and_no_findings(report: CheckReport, pristine: Path) -> None:
    record = json.loads((pristine / "phantom.json").read_text())
    assert (report.patients, report.slices) == (PATIENTS, PATIENTS * SLICES)
    assert report.tumour_slices == record["tumour_slices"]
    assert report.ok
    assert not report.missing_files
    assert not report.bad_files
    assert not report.duplicates
    assert not report.same_person
    assert not report.shared_patients
    assert all("one value throughout" in line for line in report.surprises)


def test_json_has_the_agreed_keys_and_no_nan(report: CheckReport) -> None:
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found.keys() >= {
        "patients", "slices", "tumour_slices", "missing_files", "bad_files", "duplicates",
        "shared_patients", "identity",
    }  # fmt: skip
    assert found["identity"].keys() == {"ok", "channel", "evidence"}
    looks = [one["looks_like"] for one in found["identity"]["evidence"]["channels"]]
    assert looks == ["FLAIR", "T1", "T1ce", "T2"]


@pytest.mark.parametrize(
    ("channel", "looks", "figure"),
    [(1, "T1", "tumour is"), (2, "T1ce", "tumour is"), (3, "T2", "CSF brightness")],
)
def test_mistaken_channel_is_told_with_the_figure(
    pristine: Path, channel: int, looks: str, figure: str
) -> None:
    report = check(open_source("brats-h5", pristine, channel))
    assert not report.identity.ok
    assert not report.ok
    assert f"looks like {looks}, not FLAIR" in report.identity.reason
    assert figure in report.identity.reason
    assert "channel 0 (FLAIR) looks like FLAIR" in report.identity.reason
    assert "WRONG CHANNEL" in report.to_text()


def test_page_fits_a_screen(report: CheckReport) -> None:
    lines = report.to_text().splitlines()
    assert len(lines) < 40
    assert "4 patients, 96 slices" in lines[1]
    assert any(line.startswith("  > 0 FLAIR") for line in lines)


def test_processes_find_the_same(report: CheckReport, pristine: Path) -> None:
    assert check(open_source("brats-h5", pristine), workers=2).to_json() == report.to_json()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def drop_mask(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["mask"]


def spoil_image(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["image"][3, 3, 2] = np.nan


def halve(path: Path) -> None:
    with h5py.File(path, "a") as file:
        image, mask = file["image"][::2], file["mask"][::2]
        del file["image"], file["mask"]
        file["image"], file["mask"] = image, mask


def test_bad_files_are_all_named_and_the_others_counted(phantoms: Path) -> None:
    faults: dict[Path, tuple[Callable[[Path], None], str]] = {
        slice_path(phantoms, 1, 0): (truncate, "truncated"),
        slice_path(phantoms, 1, 9): (drop_mask, "no dataset 'mask'"),
        slice_path(phantoms, 2, 9): (spoil_image, "NaN"),
        slice_path(phantoms, 3, 9): (halve, "the shape"),
    }
    for path, (spoil, _) in faults.items():
        spoil(path)
    slice_path(phantoms, 4, 5).unlink()
    report = check(open_source("brats-h5", phantoms))
    reasons = {phantoms / bad.file: bad.reason for bad in report.bad_files}
    assert reasons.keys() == faults.keys()
    for path, (_, words) in faults.items():
        assert words in reasons[path]
        assert str(phantoms) not in reasons[path]
    assert report.missing_files == ("volume_4_slice_5.h5",)
    assert report.slices == PATIENTS * SLICES - len(faults) - 1
    assert report.identity.ok
    assert not report.ok


def test_set_without_one_readable_file_is_no_evidence(tmp_path: Path) -> None:
    (tmp_path / "volume_1_slice_0.h5").write_bytes(b"not HDF5")
    report = check(open_source("brats-h5", tmp_path))
    assert (report.patients, report.slices, report.example) == (1, 0, None)
    assert [bad.file for bad in report.bad_files] == ["volume_1_slice_0.h5"]
    assert not report.identity.ok
    assert "identity: UNKNOWN: " in report.to_text()
    json.dumps(report.to_json(), allow_nan=False)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no file"):
        check(open_source("brats-h5", tmp_path))


def test_surprises_name_what_differs(phantoms: Path) -> None:
    with h5py.File(slice_path(phantoms, 2, 12), "a") as file:
        image, mask = file["image"][...], file["mask"][...]
        mask[20:22, 20:25] = 1
        del file["image"]
        file["image"], file["mask"][...] = image.astype(np.float32), mask
    surprises = "\n".join(check(open_source("brats-h5", phantoms)).surprises)
    assert "image float32 64×64×4" in surprises
    assert "volume_2_slice_12.h5" in surprises


def test_copy_under_another_name_is_found(phantoms: Path) -> None:
    for path in (phantoms / CONTENT).glob("volume_2_*.h5"):
        shutil.copy(path, path.with_name(path.name.replace("volume_2_", "volume_9_")))
    (found,) = check(open_source("brats-h5", phantoms)).to_json()["duplicates"]
    assert found["patients"] == ["BraTS20_Training_002", "BraTS20_Training_009"]
    assert found["identical"]


def write_lgg(root: Path, cases: list[str]) -> Path:
    for case in cases:
        (root / case).mkdir(parents=True)
        image = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
        image.save(root / case / f"{case}_1.tif")
        image.convert("L").save(root / case / f"{case}_1_mask.tif")
    return root


def test_people_in_two_sources_and_with_two_names_are_told(phantoms: Path, tmp_path: Path) -> None:
    (phantoms / CONTENT / "name_mapping.csv").write_text(
        "Grade,TCGA_TCIA_subject_ID,BraTS_2020_subject_ID\n"
        "LGG,TCGA-CS-5396,BraTS20_Training_001\n"
        "LGG,TCGA-CS-5396,BraTS20_Training_003\n"
        "LGG,TCGA-DU-7008,BraTS20_Training_004\n"
    )
    lgg = write_lgg(tmp_path / "lgg", ["TCGA_DU_7008_19830723", "TCGA_HT_8018_19970411"])
    ours, other = open_source("brats-h5", phantoms), open_source("lgg-tif", lgg)
    report = check(ours, others=[other])
    (shared,) = report.shared_patients
    assert (shared.patient, shared.other) == ("BraTS20_Training_004", "TCGA_DU_7008_19830723")
    assert shared.source.startswith("lgg-tif")
    assert report.same_person == (("BraTS20_Training_001", "BraTS20_Training_003"),)
    assert report.tcga_patients == 3
    # The mapping lies with the other source.
    (back,) = check(other, others=[ours]).shared_patients
    assert back.other == "BraTS20_Training_004"


def test_nifti_patient_without_the_chosen_modality_is_a_bad_file(tmp_path: Path) -> None:
    for name, parts in (("A_1", ("flair", "seg")), ("A_2", ("t1", "seg")), ("A_3", ("t1",))):
        for part in parts:
            (tmp_path / name).mkdir(exist_ok=True)
            data = nib.Nifti1Image(np.zeros((32, 32, 4), np.int16), np.eye(4))
            nib.save(data, tmp_path / name / f"{name}_{part}.nii.gz")
    report = check(open_source("brats-nifti", tmp_path))
    assert report.slices == 4
    assert len(report.missing_files) == 3
    reasons = [bad.reason for bad in report.bad_files]
    assert len(reasons) == 2
    assert "A_2 has no flair" in reasons[0]
    assert "A_3 has no flair" in reasons[1]

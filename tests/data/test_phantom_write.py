"""The phantom set on disk: exactly the layout of Kaggle or BraTS, complete or absent."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.cache import CacheSettings
from seglab.data.phantom.patient import make_patient
from seglab.data.phantom.write import CONTENT, write_phantom, write_slice
from seglab.data.sources.base import open_source
from tests.data.memory import prepare

SIZE, SLICES = 64, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "set"
    report = write_phantom(out, patients=3, size=SIZE, slices=SLICES, workers=2)
    assert (report["patients"], report["slices"], report["reused"]) == (3, 30, False)
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_hold_the_patient_on_a_lattice_of_whole_numbers(folder: Path) -> None:
    patient = make_patient(0, 2, size=SIZE, slices=SLICES)
    for index in range(SLICES):
        with h5py.File(folder / CONTENT / f"volume_2_slice_{index}.h5") as file:
            image, mask = file["image"][()], file["mask"][()]
            spacing_mm = file["image"].attrs["spacing_mm"]
        assert (image.dtype, mask.dtype) == (np.float64, np.uint8)
        assert spacing_mm == pytest.approx((155 / SLICES, 240 / SIZE, 240 / SIZE))
        raw = patient.image[index].astype(np.float64)
        spread = raw.std((0, 1))
        np.testing.assert_allclose(image * spread, (raw - raw.mean((0, 1))) * (spread > 0))
        np.testing.assert_array_equal(mask @ np.array([1, 2, 4]), patient.labels[index])
        for channel in np.flatnonzero(raw.max((0, 1)) > 100):
            values = np.unique(image[..., channel])
            numbers = (image[..., channel] - values[0]) / np.diff(values).min()
            np.testing.assert_allclose(numbers, raw[..., channel], atol=0.01)


@pytest.mark.real_data
def test_files_and_tables_are_built_like_the_real_ones(
    shared_data: Path, folder: Path, tmp_path: Path
) -> None:
    content = shared_data / "brats20_h5" / CONTENT
    image, labels = np.zeros((240, 240, 4), np.float32), np.zeros((240, 240), np.uint8)
    write_slice(tmp_path / "slice.h5", image, labels, (1, 1, 1))
    with h5py.File(next(content.glob("*.h5"))) as real, h5py.File(tmp_path / "slice.h5") as ours:
        assert set(real) == set(ours)
        for key in real:
            for trait in ("shape", "dtype", "chunks", "compression", "shuffle"):
                assert getattr(real[key], trait) == getattr(ours[key], trait), (key, trait)
    for name, known in (("meta_data.csv", 4), ("name_mapping.csv", 6)):
        columns = list(table(content / name)[0])
        assert list(table(folder / CONTENT / name)[0])[:known] == columns


def test_tables_count_what_the_files_hold(folder: Path) -> None:
    rows = table(folder / CONTENT / "meta_data.csv")
    for row in rows:
        name = Path(row["slice_path"]).name
        assert name == f"volume_{row['volume']}_slice_{row['slice']}.h5"
        with h5py.File(folder / CONTENT / name) as file:
            counts = file["mask"][()].sum((0, 1), dtype=int)
        assert [int(row[f"label{plane}_pxl_cnt"]) for plane in range(3)] == counts.tolist()
        assert int(row["target"]) == int(counts.any())
        assert float(row["background_ratio"]) == pytest.approx(1 - counts.sum() / SIZE**2)
    record = json.loads((folder / "phantom.json").read_text())
    assert (len(rows), record["tumour_slices"]) == (30, sum(int(row["target"]) for row in rows))
    names = table(folder / CONTENT / "name_mapping.csv")
    for trait, row in zip(record["traits"], names, strict=True):
        assert (trait["patient"], trait["grade"]) == (row["BraTS_2020_subject_ID"], row["Grade"])
    assert names[2]["BraTS_2020_subject_ID"] == "Phantom_003"


def test_they_are_read_as_phantoms_and_old_sets_as_before(folder: Path, tmp_path: Path) -> None:
    def read(root: Path) -> tuple[str, str, str]:
        source = open_source("brats-h5", root)
        cache, _ = prepare(source, CacheSettings(64, "brain", "percentile", "auto"), tmp_path)
        first = cache.patients[0]
        return first.patient_id, str(first.grade), cache.notice

    phantom, grade, notice = read(folder / CONTENT)
    assert (phantom, notice) == ("Phantom_001", "synthetic data: phantoms, not patients")
    assert grade in ("HGG", "LGG")
    old = shutil.copytree(folder, tmp_path / "old")
    record = json.loads((old / "phantom.json").read_text())
    (old / "phantom.json").write_text(json.dumps({**record, "names": None, "generator": 4}))
    assert read(old)[::2] == ("BraTS20_Training_001", notice)
    (old / "phantom.json").unlink()
    assert read(old / CONTENT)[::2] == ("BraTS20_Training_001", "")


def test_nifti_holds_the_same_patients(tmp_path: Path) -> None:
    write_phantom(tmp_path / "set", patients=2, size=48, slices=9, workers=1, layout="nifti")
    patient = make_patient(0, 2, size=48, slices=9)
    parts = ("flair", "t1", "t1ce", "t2", "seg")
    expected = (*np.moveaxis(patient.image, -1, 0), patient.labels)
    for part, stack in zip(parts, expected, strict=True):
        name = f"Phantom_002/Phantom_002_{part}.nii.gz"
        image = nib.load(tmp_path / "set" / name)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.moveaxis(image.dataobj, -1, 0), stack)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        assert image.header.get_zooms() == pytest.approx((5, 5, 155 / 9))


def test_patients_depend_on_the_seed_alone(folder: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path, patients=2, size=SIZE, slices=SLICES, workers=1)
    for path in (tmp_path / CONTENT).glob("*.h5"):
        assert path.read_bytes() == (folder / CONTENT / path.name).read_bytes()
    ours, other = (make_patient(seed, 1, size=SIZE, slices=SLICES) for seed in (0, 1))
    assert (ours.labels != other.labels).any()


def test_same_set_is_reused_and_anything_else_refused(folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    report = write_phantom(folder, patients=3, size=SIZE, slices=SLICES)
    assert (report["reused"], report["slices"]) == (True, 30)
    with pytest.raises(UserError, match=r"another phantom set \(seed 0\)"):
        write_phantom(folder, patients=3, size=SIZE, slices=SLICES, seed=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a phantom set"):
        write_phantom(tmp_path, patients=1, size=32, slices=8)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match=r"cannot write the phantom set to .*thesis.tex/set"):
        write_phantom(tmp_path / "thesis.tex" / "set", patients=1, size=32, slices=8)


def test_a_kill_leaves_no_half_set_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "set"
    code = (
        "from pathlib import Path; from seglab.data.phantom.write import write_phantom;"
        f"write_phantom(Path({str(out)!r}), patients=999, size=32, slices=8, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list(tmp_path.rglob("*.h5")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not out.exists()
    assert list(tmp_path.rglob("*.h5"))
    out.mkdir()  # an empty folder is filled
    assert not write_phantom(out, patients=1, size=32, slices=8)["reused"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]

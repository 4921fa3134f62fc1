"""The phantom set on disk: exactly the Kaggle layout, complete or absent."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.phantom import make_patient, write_phantom
from seglab.data.phantom.kaggle import CONTENT, write_volume
from seglab.data.sources import open_source

SIZE, SLICES = 64, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "set"
    report = write_phantom(out, patients=3, size=SIZE, slices=SLICES, workers=2)
    assert (report.patients, report.slices, report.reused) == (3, 30, False)
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_hold_the_patient(folder: Path) -> None:
    patient = make_patient(0, 2, size=SIZE, slices=SLICES)
    for index in range(SLICES):
        with h5py.File(folder / CONTENT / f"volume_2_slice_{index}.h5") as file:
            assert set(file) == {"image", "mask"}
            image, mask = file["image"][()], file["mask"][()]
            assert file["image"].chunks == (60, 60, 1)
            assert file["image"].compression == file["mask"].compression == "gzip"
        assert (image.shape, image.dtype) == ((SIZE, SIZE, 4), np.float64)
        assert (mask.shape, mask.dtype) == ((SIZE, SIZE, 3), np.uint8)
        raw = patient.image[index].astype(np.float64)
        spread = raw.std((0, 1))
        np.testing.assert_allclose(image * spread, (raw - raw.mean((0, 1))) * (spread > 0))
        labels = mask @ np.array([1, 2, 4], np.uint8)
        np.testing.assert_array_equal(labels, patient.labels[index])


def test_files_state_the_spacing_of_a_head_of_the_usual_size(folder: Path) -> None:
    source = open_source("brats-h5", folder)
    volume = source.read(source.patients()[0])
    assert volume.spacing_mm == pytest.approx((155 / SLICES, 240 / SIZE, 240 / SIZE))


@pytest.mark.real_data
def test_files_are_built_like_the_real_ones(shared_data: Path, tmp_path: Path) -> None:
    real_path = next((shared_data / "brats20_h5" / CONTENT).glob("*.h5"))
    image = np.zeros((1, 240, 240, 4), np.float32)
    write_volume(tmp_path, 1, image, np.zeros((1, 240, 240), np.uint8))
    with h5py.File(real_path) as real, h5py.File(tmp_path / "volume_1_slice_0.h5") as ours:
        assert set(real) == set(ours)
        for key in real:
            for trait in ("shape", "dtype", "chunks", "compression", "shuffle"):
                assert getattr(real[key], trait) == getattr(ours[key], trait), (key, trait)


@pytest.mark.real_data
def test_tables_have_the_columns_of_the_real_ones(shared_data: Path, folder: Path) -> None:
    real = shared_data / "brats20_h5" / CONTENT
    for name, known in (("meta_data.csv", 4), ("name_mapping.csv", 6)):
        columns = list(table(real / name)[0])
        assert list(table(folder / CONTENT / name)[0])[:known] == columns


def test_tables_count_what_the_files_hold(folder: Path) -> None:
    rows = table(folder / CONTENT / "meta_data.csv")
    assert len(rows) == 30
    for row in rows:
        name = Path(row["slice_path"]).name
        assert row["slice_path"] == f"/content/data/{name}"
        assert name == f"volume_{row['volume']}_slice_{row['slice']}.h5"
        with h5py.File(folder / CONTENT / name) as file:
            counts = file["mask"][()].sum((0, 1), dtype=int)
        assert [int(row[f"label{plane}_pxl_cnt"]) for plane in range(3)] == counts.tolist()
        assert int(row["target"]) == int(counts.any())
        assert float(row["background_ratio"]) == pytest.approx(1 - counts.sum() / SIZE**2)
    other = table(folder / "BraTS20 Training Metadata.csv")
    assert [row["label1_pxl_cnt"] for row in other] == [row["label1_pxl_cnt"] for row in rows]


def test_names_and_grades(folder: Path) -> None:
    rows = table(folder / CONTENT / "name_mapping.csv")
    expected = [f"BraTS20_Training_{number:03d}" for number in (1, 2, 3)]
    assert [row["BraTS_2020_subject_ID"] for row in rows] == expected
    assert {row["TCGA_TCIA_subject_ID"] for row in rows} == {"NA"}
    traits = json.loads((folder / "phantom.json").read_text())["traits"]
    assert [row["Grade"] for row in rows] == [trait["grade"] for trait in traits]


def test_patients_depend_on_neither_their_number_nor_the_workers(
    folder: Path, tmp_path: Path
) -> None:
    write_phantom(tmp_path / "two", patients=2, size=SIZE, slices=SLICES, workers=1)
    for path in (tmp_path / "two" / CONTENT).glob("*.h5"):
        assert path.read_bytes() == (folder / CONTENT / path.name).read_bytes()


def test_same_set_is_reused_and_another_refused(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    report = write_phantom(folder, patients=3, size=SIZE, slices=SLICES)
    assert report.reused
    assert report.slices == 30
    with pytest.raises(UserError, match=r"another phantom set .*seed 0 instead of 1"):
        write_phantom(folder, patients=3, size=SIZE, slices=SLICES, seed=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_planted_patients_are_recorded(tmp_path: Path) -> None:
    out = tmp_path / "planted"
    write_phantom(out, patients=2, size=32, slices=8, workers=1, plants={2: "distractor_only"})
    traits = json.loads((out / "phantom.json").read_text())["traits"]
    assert [trait["plant"] for trait in traits] == [None, "distractor_only"]
    rows = table(out / CONTENT / "meta_data.csv")
    assert all(row["target"] == "0" for row in rows if row["volume"] == "2")


def test_foreign_or_damaged_folders_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not a phantom set"):
        write_phantom(foreign, patients=1, size=32, slices=8)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]

    damaged = tmp_path / "damaged"
    write_phantom(damaged, patients=1, size=32, slices=8)
    next((damaged / CONTENT).glob("*.h5")).unlink()
    with pytest.raises(UserError, match="has lost slices"):
        write_phantom(damaged, patients=1, size=32, slices=8)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "empty"
    out.mkdir()
    assert not write_phantom(out, patients=1, size=32, slices=8).reused


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the phantom set to .*file/set"):
        write_phantom(tmp_path / "file" / "set", patients=1, size=32, slices=8)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patients": 0}, "patients 0"),
        ({"seed": -1}, "seed -1"),
        ({"workers": -2}, "workers -2"),
        ({"size": 16}, "size 16"),
        ({"slices": 2}, "slices 2"),
        ({"patients": 1, "plants": {2: "tiny"}}, "plant for patient 2"),
        ({"plants": {1: "fiant"}}, "did you mean 'faint'"),
    ],
)
def test_bad_parameters_write_nothing(
    tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        write_phantom(tmp_path / "set", **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_half_set_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "set"
    code = (
        "from pathlib import Path; from seglab.data.phantom import write_phantom;"
        f"write_phantom(Path({str(out)!r}), patients=999, size=32, slices=8, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    waited_until = time.monotonic() + 60
    while not list(tmp_path.rglob("*.h5")) and time.monotonic() < waited_until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert list(tmp_path.rglob("*.h5"))
    write_phantom(out, patients=1, size=32, slices=8)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]

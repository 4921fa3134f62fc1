"""TIFF slices of the lower-grade glioma set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglab.core.errors import UserError
from seglab.data.sources import Volume, open_source

CASE = "TCGA_CS_4941_19960909"


def write_slice(folder: Path, number: int, case: str = CASE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image = np.zeros((8, 9, 3), np.uint8)
    image[:] = (10 + number, 20 + number, 30 + number)
    mask = np.zeros((8, 9), np.uint8)
    mask[:number] = 255
    Image.fromarray(mask).save(folder / f"{case}_{number}_mask.tif")
    path = folder / f"{case}_{number}.tif"
    Image.fromarray(image).save(path)
    return path


def read_only_patient(root: Path, channel: int | None = None) -> Volume:
    source = open_source("lgg-tif", root, channel)
    (patient,) = source.patients()
    return source.read(patient)


def test_slices_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_slice(tmp_path / "kaggle_3m" / CASE, number)
    volume = read_only_patient(tmp_path)
    assert volume.patient_id == CASE
    assert volume.slice_indices.tolist() == [0, 1, 9]
    assert volume.stack_size == 10
    assert volume.image[:, 0, 0].tolist() == [21, 22, 30]
    assert volume.mask.sum(axis=(1, 2)).tolist() == [9, 18, 72]
    assert (volume.image.dtype, volume.mask.dtype) == (np.float32, np.uint8)
    assert volume.spacing_mm is None


@pytest.mark.parametrize(("channel", "value"), [(0, 11), (1, 21), (2, 31), (None, 21)])
def test_channels_are_in_file_order(tmp_path: Path, channel: int | None, value: int) -> None:
    write_slice(tmp_path, 1)
    assert read_only_patient(tmp_path, channel).image.max() == value


def test_archive_that_holds_the_set_twice_is_read_once(tmp_path: Path) -> None:
    write_slice(tmp_path / "kaggle_3m" / CASE, 1)
    write_slice(tmp_path / "lgg-mri-segmentation" / "kaggle_3m" / CASE, 1)
    assert len(read_only_patient(tmp_path).image) == 1


def test_one_slice_in_two_folders_is_refused(tmp_path: Path) -> None:
    write_slice(tmp_path / "a", 1)
    write_slice(tmp_path / "b", 1)
    with pytest.raises(UserError, match=f"{CASE}_1.*are both"):
        open_source("lgg-tif", tmp_path).patients()


def test_gaps_and_lone_halves_are_missing(tmp_path: Path) -> None:
    write_slice(tmp_path, 1)
    (tmp_path / f"{CASE}_1_mask.tif").unlink()
    write_slice(tmp_path, 3)
    assert open_source("lgg-tif", tmp_path).missing_files() == [
        f"{CASE}_1_mask.tif",
        f"{CASE}_2.tif",
        f"{CASE}_2_mask.tif",
    ]


@pytest.mark.parametrize(("code", "grade"), [("1", "G2"), ("2", "G3"), ("", None)])
def test_grade_comes_from_the_table(tmp_path: Path, code: str, grade: str | None) -> None:
    write_slice(tmp_path, 1)
    table = f"Patient,neoplasm_histologic_grade\nTCGA_CS_4941,{code}\n"
    (tmp_path / "data.csv").write_text(table)
    assert read_only_patient(tmp_path).grade == grade


def test_read_channels_gives_every_channel(tmp_path: Path) -> None:
    path = write_slice(tmp_path, 2)
    image, planes = open_source("lgg-tif", tmp_path).read_channels(path)
    assert image[:, 0, 0].tolist() == [12, 22, 32]
    assert planes.shape == (1, 8, 9)
    assert planes.sum() == 18


def _one_channel(path: Path) -> None:
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "one channel": ("_2.tif", _one_channel, r"has 1 channel\(s\); expected 3"),
    "truncated": ("_2.tif", _truncate, "cannot be read as TIFF"),
    "cut short": ("_2.tif", _cut_short, "cannot be read as TIFF"),
    "not TIFF": ("_2.tif", lambda path: path.write_text("hello"), "cannot be read as TIFF"),
    "no mask": ("_2_mask.tif", Path.unlink, "does not exist"),
    "coloured mask": (
        "_2_mask.tif",
        lambda path: shutil.copy(path.with_name(f"{CASE}_2.tif"), path),
        r"has 3 channel\(s\); expected 1",
    ),
    "mask of another shape": (
        "_2_mask.tif",
        lambda path: Image.fromarray(np.zeros((9, 8), np.uint8)).save(path),
        "mask of shape",
    ),
    "too large": (
        "_2.tif",
        lambda path: Image.new("RGB", (4000, 8)).save(path),
        "allowed are at most",
    ),
    "another shape than its stack": (
        "_2",
        lambda stem: [
            Image.new("RGB", (5, 5)).save(f"{stem}.tif"),
            Image.new("L", (5, 5)).save(f"{stem}_mask.tif"),
        ],
        "its stack has",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, spoil, reason = BAD_FILES[kind]
    for number in (1, 2):
        write_slice(tmp_path, number)
    spoil(tmp_path / f"{CASE}{name}")
    with pytest.raises(UserError, match=reason) as refusal:
        read_only_patient(tmp_path)
    assert f"{CASE}_2" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} holds no file named TCGA_"):
        open_source("lgg-tif", tmp_path).patients()

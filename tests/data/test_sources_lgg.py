"""TIFF slices of the lower-grade glioma set."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglab.core.errors import UserError
from seglab.data.sources.base import open_source
from tests.data.files import assert_refused, pipe, read_only_patient

CASE = "TCGA_CS_4941_19960909"


def write_slice(folder: Path, number: int, case: str = CASE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image = np.zeros((8, 9, 3), np.uint8)
    image[:] = (10 + number, 20 + number, 30 + number)
    image[5:, :, 1] -= 2 * np.arange(9, dtype=np.uint8)
    mask = np.zeros((8, 9), np.uint8)
    mask[7, -number:] = 255
    Image.fromarray(mask).save(folder / f"{case}_{number}_mask.tif")
    path = folder / f"{case}_{number}.tif"
    Image.fromarray(image).save(path)
    return path


read = partial(read_only_patient, "lgg-tif")


@pytest.mark.parametrize("name", ["lgg-tif", "brats-h5"])
def test_labels_that_the_set_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.labels: brats2017 is none of {name}'s: auto, bin"):
        open_source(name, tmp_path, labels="brats2017")


def test_slices_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_slice(tmp_path / "kaggle_3m" / CASE, number)
    volume = read(tmp_path)
    assert volume.patient_id == CASE
    assert volume.slice_indices.tolist() == [0, 1, 9]
    assert volume.stack_size == 10
    assert volume.images[0, :, 0, 0].tolist() == [21, 22, 30]
    assert (volume.labels == 4).sum(axis=(1, 2)).tolist() == [1, 2, 9]
    assert (volume.images.dtype, volume.labels.dtype) == (np.float32, np.uint8)
    assert (volume.convention, volume.parts_known) == ("binary", False)
    assert volume.spacing_mm is None
    assert volume.shared_scales == (True,)


def test_modalities_are_channels_of_the_file(tmp_path: Path) -> None:
    write_slice(tmp_path, 1)
    volume = read(tmp_path, "t1ce", "t1", "flair")
    assert [image.max() for image in volume.images] == [31, 11, 21]
    with pytest.raises(UserError, match=f"{CASE} has no t2; .* has: t1, flair, t1ce"):
        read(tmp_path, "t2")


def test_flair_is_not_read_in_the_place_of_another_sequence(tmp_path: Path) -> None:
    path = write_slice(tmp_path, 1)
    image = np.array(Image.open(path))
    Image.fromarray(image[..., [0, 1, 1]]).save(path)
    assert read(tmp_path, "flair", "t1").images.any()
    with pytest.raises(UserError, match=f"{CASE} has no t1ce; .* has: t1, flair"):
        read(tmp_path, "flair", "t1ce")


def test_archive_that_holds_the_set_twice_is_read_once(tmp_path: Path) -> None:
    write_slice(tmp_path / "kaggle_3m" / CASE, 1)
    write_slice(tmp_path / "lgg-mri-segmentation" / "kaggle_3m" / CASE, 1)
    assert read(tmp_path).images.shape[1] == 1


@pytest.mark.parametrize(("digits", "suffix"), [(1, "tif"), (2, "tiff")])
def test_gaps_and_single_halves_are_missing(tmp_path: Path, digits: int, suffix: str) -> None:
    for number in (1, 3):
        write_slice(tmp_path, number)
        for end in ("", "_mask"):
            path = tmp_path / f"{CASE}_{number}{end}.tif"
            path.rename(path.with_name(f"{CASE}_{number:0{digits}}{end}.{suffix}"))
    absent = [f"{CASE}_{1:0{digits}}_mask.{suffix}"]
    (tmp_path / absent[0]).unlink()
    absent += [f"{CASE}_{2:0{digits}}{end}.{suffix}" for end in ("", "_mask")]
    assert open_source("lgg-tif", tmp_path).missing_files() == absent


@pytest.mark.parametrize(("code", "grade"), [("1", "G2"), ("2", "G3"), ("", None)])
def test_grade_comes_from_the_table(tmp_path: Path, code: str, grade: str | None) -> None:
    write_slice(tmp_path, 1)
    table = f"Patient,neoplasm_histologic_grade\nTCGA_CS_4941,{code}\n"
    (tmp_path / "data.csv").write_text(table)
    assert read(tmp_path).grade == grade


def test_a_file_of_one_channel_is_the_modality_that_is_wanted(tmp_path: Path) -> None:
    path = write_slice(tmp_path, 1)
    Image.fromarray(np.full((8, 9), 77, np.uint8)).save(path)
    volume = read(tmp_path, "t1ce")
    assert volume.images.max() == 77
    assert any("one channel: taken for t1ce" in text for text in volume.remarks)
    with pytest.raises(UserError, match="has 1 channel; flair, t1 are in 3"):
        read(tmp_path, "flair", "t1")


def picture(shape: tuple[int, ...], value: int = 0) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def state(tag: int, value: int) -> Callable[[Path], object]:
    """Let the first directory of a file state another number."""

    def write(path: Path) -> None:
        content = bytearray(path.read_bytes())
        (first,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, first)
        for place in range(first + 2, first + 2 + 12 * count, 12):
            if struct.unpack_from("<H", content, place) == (tag,):
                struct.pack_into("<HII", content, place + 2, 4, 1, value)
        path.write_bytes(content)

    return write


HEIGHT = 257
BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "one channel": ("_2.tif", picture((8, 9)), "its volume has"),
    "another shape than its stack": ("_2.tif", picture((5, 5, 3)), "its volume has"),
    "cut short": (
        "_2.tif",
        lambda path: os.truncate(path, path.stat().st_size - 20),
        "cannot be read as TIFF",
    ),
    "not TIFF": ("_2.tif", lambda path: path.write_text("hello"), "cannot be read as TIFF"),
    "more rows than stored": ("_2.tif", state(HEIGHT, 1000), "cannot be read as TIFF"),
    "pipe": ("_2.tif", pipe, "is not a file"),
    "no mask": ("_2_mask.tif", Path.unlink, "does not exist"),
    "coloured mask": ("_2_mask.tif", picture((8, 9, 3)), "its image has"),
    "grey mask": ("_2_mask.tif", picture((8, 9), 130), "labels 130, which binary does not have"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, spoil, reason = BAD_FILES[kind]
    for number in (1, 2):
        write_slice(tmp_path, number)
    spoil(tmp_path / f"{CASE}{name}")
    assert_refused("lgg-tif", tmp_path, reason, f"{CASE}_2")

"""Kaggle slice files: layouts, order, and every file that must be refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.sources import Volume, open_source

SIDE = 24
Spoil = Callable[[Path], None]


def write_slice(folder: Path, volume: int, index: int, **changes: np.ndarray) -> Path:
    """A slice whose channel c is 100·c + index everywhere, tumour in its first rows."""
    folder.mkdir(parents=True, exist_ok=True)
    image = np.full((SIDE, SIDE, 4), float(index)) + 100 * np.arange(4)
    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[0, :, 0] = mask[1, :, 1] = mask[2, :, 2] = 1
    path = folder / f"volume_{volume}_slice_{index}.h5"
    with h5py.File(path, "w") as file:
        for name, values in ({"image": image, "mask": mask} | changes).items():
            file.create_dataset(name, data=values, compression="gzip")
    return path


def read_only_patient(root: Path) -> Volume:
    source = open_source("brats-h5", root)
    (patient,) = source.patients()
    return source.read(patient)


@pytest.mark.parametrize(
    "above", ["", "data", "content/data", "BraTS2020_training_data/content/data"]
)
def test_root_may_be_any_folder_above_the_files(tmp_path: Path, above: str) -> None:
    for index in (10, 2):
        write_slice(tmp_path / above, 7, index)
    volume = read_only_patient(tmp_path)
    assert volume.patient_id == "BraTS20_Training_007"
    assert volume.slice_indices.tolist() == [2, 10]
    assert volume.image[:, 0, 0].tolist() == [2.0, 10.0]
    assert volume.mask.sum(axis=(1, 2)).tolist() == [3 * SIDE, 3 * SIDE]
    assert (volume.image.dtype, volume.mask.dtype) == (np.float32, np.uint8)
    assert (volume.stack_size, volume.spacing_mm, volume.grade) == (155, (1.0, 1.0, 1.0), None)
    assert not volume.contiguous


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    for index in (3, 4):
        write_slice(tmp_path / "disk/data", 7, index)
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").symlink_to(tmp_path / "disk/data")
    (tmp_path / "disk/data/loop").symlink_to(root)
    (root / "again").symlink_to(tmp_path / "disk/data")
    assert read_only_patient(root).slice_indices.tolist() == [3, 4]


def test_channel_selects_the_modality(tmp_path: Path) -> None:
    write_slice(tmp_path, 1, 5)
    source = open_source("brats-h5", tmp_path, 3)
    assert source.read(source.patients()[0]).image.max() == 305
    with pytest.raises(UserError, match=r"no channel 4.*0 \(FLAIR\)"):
        open_source("brats-h5", tmp_path, 4)


def test_patients_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for volume in (10, 9, 100, 1000):
        write_slice(tmp_path, volume, 0)
    found = [patient.patient_id[-4:] for patient in open_source("brats-h5", tmp_path).patients()]
    assert found == ["_009", "_010", "_100", "1000"]


@pytest.mark.parametrize("listing", ["meta_data.csv", "BraTS20 Training Metadata.csv"])
@pytest.mark.parametrize("folder", ["/content/data/", "C:\\somewhere\\else\\", ""])
def test_listing_tells_missing_files_and_the_stack(
    tmp_path: Path, listing: str, folder: str
) -> None:
    write_slice(tmp_path / "content" / "data", 1, 1)
    rows = [f"{folder}volume_{v}_slice_{s}.h5,0,{v},{s}" for v in (1, 2) for s in range(3)]
    (tmp_path / listing).write_text("\n".join(["slice_path,target,volume,slice", *rows]))
    source = open_source("brats-h5", tmp_path)
    assert source.missing_files() == [
        "volume_1_slice_0.h5",
        "volume_1_slice_2.h5",
        *(f"volume_2_slice_{index}.h5" for index in range(3)),
    ]
    assert source.read(source.patients()[0]).stack_size == 3


def test_without_a_listing_gaps_of_the_numbering_are_missing(tmp_path: Path) -> None:
    for index in (0, 3):
        write_slice(tmp_path, 4, index)
    missing = open_source("brats-h5", tmp_path).missing_files()
    assert missing == ["volume_4_slice_1.h5", "volume_4_slice_2.h5"]


def test_grade_comes_from_the_name_mapping(tmp_path: Path) -> None:
    write_slice(tmp_path, 12, 0)
    (tmp_path / "name_mapping.csv").write_text(
        "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\nLGG,NA,BraTS20_Training_012\n"
    )
    assert read_only_patient(tmp_path).grade == "LGG"


def test_listing_does_not_travel_to_workers(tmp_path: Path) -> None:
    write_slice(tmp_path, 1, 0)
    source = open_source("brats-h5", tmp_path)
    patient = source.patients()[0]
    there = pickle.loads(pickle.dumps(source))
    assert "_files" not in vars(there)
    assert np.array_equal(there.read(patient).image, source.read(patient).image)


def test_read_channels_gives_every_channel_and_plane(tmp_path: Path) -> None:
    path = write_slice(tmp_path, 1, 6)
    image, planes = open_source("brats-h5", tmp_path).read_channels(path)
    assert image[:, 0, 0].tolist() == [6, 106, 206, 306]
    assert [np.flatnonzero(plane.any(axis=1)).tolist() for plane in planes] == [[0], [1], [2]]


def test_missing_root_and_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_source("brats-h5", tmp_path / "nowhere").patients()
    with pytest.raises(UserError, match=f"{tmp_path} holds no file named volume_"):
        open_source("brats-h5", tmp_path).patients()


def test_two_files_of_one_slice_are_refused(tmp_path: Path) -> None:
    write_slice(tmp_path / "a", 1, 0)
    write_slice(tmp_path / "b", 1, 0)
    with pytest.raises(UserError, match=r"a/volume_1_slice_0\.h5 and .*b/volume_1_slice_0\.h5"):
        open_source("brats-h5", tmp_path).patients()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _damage_chunk(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(0)
    stored = bytearray(path.read_bytes())
    stored[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(bytes(stored))


def _replace(name: str, values: np.ndarray | None) -> Spoil:
    def spoil(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            if values is not None:
                file[name] = values

    return spoil


def _link_outside(path: Path) -> None:
    outside = path.with_suffix(".other")
    with h5py.File(outside, "w") as file:
        file["image"] = np.zeros((SIDE, SIDE, 4))
    with h5py.File(path, "a") as file:
        del file["image"]
        file["image"] = h5py.ExternalLink(outside.name, "/image")


def _virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((SIDE, SIDE, 4), "f8")
    layout[:] = h5py.VirtualSource(str(path.with_suffix(".other")), "image", (SIDE, SIDE, 4))
    with h5py.File(path, "a") as file:
        del file["image"]
        file.create_virtual_dataset("image", layout)


def _external_storage(path: Path) -> None:
    outside = path.with_suffix(".raw")
    outside.write_bytes(bytes(SIDE * SIDE * 4 * 8))
    with h5py.File(path, "a") as file:
        del file["image"]
        file.create_dataset("image", (SIDE, SIDE, 4), "f8", external=str(outside))


def _absurd_shape(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["image"]
        file.create_dataset("image", (2**20, 2**20, 4), "f8", chunks=(64, 64, 1))


def _absurd_chunks(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["image"]
        shape = (SIDE, SIDE, 4)
        file.create_dataset("image", shape, "f8", chunks=(4096, 4096, 1), maxshape=(None, None, 4))


def _nan_pixel(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["image"][3, 4, 0] = np.nan


BAD_FILES: dict[str, tuple[Spoil, str]] = {
    "truncated": (_truncate, "truncated"),
    "empty": (_empty, "cannot be read as HDF5"),
    "damaged": (_damage_chunk, "cannot be read as HDF5"),
    "no mask": (_replace("mask", None), "no dataset 'mask'; it has: image"),
    "no image": (_replace("image", None), "no dataset 'image'; it has: mask"),
    "mask of another shape": (
        _replace("mask", np.zeros((SIDE, SIDE + 1, 3), np.uint8)),
        r"mask of shape \(24, 25\) for an image of shape \(24, 24\)",
    ),
    "flat image": (_replace("image", np.zeros((SIDE, SIDE))), "expected .height, width, channels"),
    "three channels": (
        _replace("image", np.zeros((SIDE, SIDE, 3))),
        "3 image channels; expected 4",
    ),
    "text": (_replace("image", np.full((2, 2, 4), b"x")), "not numbers"),
    "NaN": (_nan_pixel, "1 image values that are NaN"),
    "NaN mask": (_replace("mask", np.full((SIDE, SIDE, 3), np.nan)), "mask values that are NaN"),
    "external link": (_link_outside, "link to elsewhere"),
    "virtual dataset": (_virtual, "another file"),
    "external storage": (_external_storage, "another file"),
    "absurd shape": (_absurd_shape, "allowed are at most"),
    "absurd chunks": (_absurd_chunks, "declares chunks"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    spoil, reason = BAD_FILES[kind]
    write_slice(tmp_path, 1, 0)
    spoil(write_slice(tmp_path, 1, 1))
    with pytest.raises(UserError, match=reason) as refusal:
        read_only_patient(tmp_path)
    assert "volume_1_slice_1.h5" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_slices_of_one_volume_must_agree_in_shape(tmp_path: Path) -> None:
    write_slice(tmp_path, 1, 0)
    write_slice(tmp_path, 1, 1, image=np.zeros((9, 9, 4)), mask=np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(UserError, match=r"slice_1\.h5 has the shape \(9, 9\)"):
        read_only_patient(tmp_path)


def test_listing_without_its_column_is_named(tmp_path: Path) -> None:
    write_slice(tmp_path, 1, 0)
    (tmp_path / "meta_data.csv").write_text("volume,slice\n1,0\n")
    with pytest.raises(UserError, match=r"meta_data\.csv has no column that ends in 'slice_path'"):
        open_source("brats-h5", tmp_path).missing_files()

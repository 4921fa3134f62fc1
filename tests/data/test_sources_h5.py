"""Kaggle slice files: layouts, order, modalities, labels, and every file that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.sources.base import open_source
from seglab.data.sources.brats_h5 import SPACING
from tests.data.files import assert_refused, pipe, read_only_patient

SIDE = 24
Spoil = Callable[[Path], None]


def head(channel: int, index: int = 0) -> np.ndarray:
    """Whole numbers in a disc; background 0."""
    y, x = np.mgrid[-12:12, -12:12]
    values = 100 * (channel + 1) + 7 * x + 3 * y + index
    return np.where(np.hypot(y, x) < 9, values, 0)


def write_slice(folder: Path, volume: int, index: int, **changes: np.ndarray) -> Path:
    """A z-scored slice of ``head``, with a row of each part of a tumour."""
    folder.mkdir(parents=True, exist_ok=True)
    image = np.stack([head(channel, index) for channel in range(4)], axis=-1)
    scores = (image - image.mean((0, 1))) / image.std((0, 1))
    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[10, 8:16, 0] = mask[11, 8:16, 1] = mask[12, 8:16, 2] = 1
    path = folder / f"volume_{volume}_slice_{index}.h5"
    with h5py.File(path, "w") as file:
        for name, values in ({"image": scores, "mask": mask} | changes).items():
            file.create_dataset(name, data=values, compression="gzip")
    return path


read = partial(read_only_patient, "brats-h5")


@pytest.mark.parametrize("above", ["", "BraTS2020_training_data/content/data"])
def test_any_folder_above_and_any_order_of_modalities(tmp_path: Path, above: str) -> None:
    for index in (10, 2):
        write_slice(tmp_path / above, 7, index)
    volume = read(tmp_path, "t2", "flair", "t1ce")
    assert volume.patient_id == "BraTS20_Training_007"
    assert volume.slice_indices.tolist() == [2, 10]
    assert volume.modalities == ("t2", "flair", "t1ce")
    assert volume.shared_scales == (True, True, True)
    for image, channel in zip(volume.images, (3, 0, 2), strict=True):
        np.testing.assert_array_equal(image, [head(channel, 2), head(channel, 10)])
    assert (volume.images.dtype, volume.labels.dtype) == (np.float32, np.uint8)
    assert (volume.stack_size, volume.spacing_mm, volume.grade) == (155, (1.0, 1.0, 1.0), None)
    assert (volume.convention, volume.parts_known) == ("planes", True)


def test_a_modality_without_whole_numbers_keeps_its_scores_and_says_so(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(SIDE, SIDE, 4))
    scores[..., 1:] = np.stack([head(channel) for channel in (1, 2, 3)], axis=-1)
    write_slice(tmp_path, 1, 0, image=scores)
    volume = read(tmp_path, "flair", "t1")
    assert volume.shared_scales == (False, True)
    np.testing.assert_array_equal(volume.images[0, 0], scores[..., 0].astype(np.float32))
    (told,) = volume.remarks
    assert told.startswith("flair: slice 1 holds no whole")


def test_planes_become_one_label_map_and_a_single_one_a_merged_mask(tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[8:14, 8:14, 1] = mask[9:13, 9:13, 0] = mask[10:12, 10:12, 2] = 1
    write_slice(tmp_path, 1, 0, mask=mask)
    volume = read(tmp_path)
    assert volume.labels[0, 7:12, 10].tolist() == [0, 2, 1, 3, 3]
    assert np.array_equal(volume.labels > 0, mask.any(axis=-1)[None])
    write_slice(tmp_path, 1, 0, mask=255 * mask[..., :1])
    volume = read(tmp_path)
    assert (volume.convention, volume.parts_known) == ("binary", False)
    assert np.array_equal(volume.labels[0], 4 * mask[..., 0])


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    for index in (3, 4):
        write_slice(tmp_path / "disk/data", 7, index)
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").symlink_to(tmp_path / "disk/data")
    (tmp_path / "disk/data/loop").symlink_to(root)
    (root / "again").symlink_to(tmp_path / "disk/data")
    assert read(root).slice_indices.tolist() == [3, 4]


def test_without_a_listing_gaps_of_the_numbering_are_missing(tmp_path: Path) -> None:
    for index in (0, 3):
        write_slice(tmp_path, 4, index)
    missing = open_source("brats-h5", tmp_path).missing_files()
    assert missing == ["volume_4_slice_1.h5", "volume_4_slice_2.h5"]


@pytest.mark.parametrize(
    ("stated", "spacing_mm"),
    [((3.0, 0.5, 0.75), (3.0, 0.5, 0.75)), ((1.0, 0.0, 1.0), None), ((1.0, 1.0), None),
     ((1.0, np.inf, 1.0), None), ((1e-3, 1e-3, 1e-3), None)],
)  # fmt: skip
def test_stated_spacing_is_plausible_or_unknown(
    tmp_path: Path, stated: tuple[float, ...], spacing_mm: tuple[float, ...] | None
) -> None:
    with h5py.File(write_slice(tmp_path, 1, 0), "a") as file:
        file["image"].attrs[SPACING] = stated
    volume = read(tmp_path)
    assert volume.spacing_mm == spacing_mm
    assert volume.stack_size == (52 if spacing_mm else 155)
    assert len(volume.remarks) == (spacing_mm is None)
    assert all("volume unknown" in text for text in volume.remarks)


def test_wrong_folders_and_two_files_of_one_slice_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist.*data\.root=DIR.*data download"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"^{tmp_path} holds no file named volume_[^;]*$"):
        read(tmp_path)
    for name, source in (("A_flair.nii.gz", "brats-nifti"), ("TCGA_CS_1.tif", "lgg-tif")):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=f"{Path(name).suffix} files: add data.source={source}"):
            read(tmp_path)
        (tmp_path / name).unlink()
    for folder in "ab":
        write_slice(tmp_path / folder, 1, 0)
    with pytest.raises(UserError, match=r"a/volume_1_slice_0\.h5 and .*b/volume_1_slice_0\.h5"):
        read(tmp_path)


def _damage_chunk(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(0)
    with path.open("r+b") as stored:
        stored.seek(chunk.byte_offset)
        stored.write(bytes(chunk.size))


def _replace(name: str, values: np.ndarray) -> Spoil:
    def spoil(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = values

    return spoil


def _absurd_shape(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["image"]
        file.create_dataset("image", (2**20, 2**20, 4), "f8", chunks=(64, 64, 1))


MASK = np.zeros((SIDE, SIDE, 3))
BAD_FILES: dict[str, tuple[Spoil, str]] = {
    "damaged": (_damage_chunk, "cannot be read as HDF5"),
    "pipe": (pipe, "is not a file"),
    "narrow mask": (_replace("mask", MASK[1:]), r"the shape \(23, 24\); its image has \(24, 24\)"),
    "flat image": (_replace("image", np.zeros((SIDE, SIDE))), "expected .height, width, 4"),
    "two planes": (_replace("mask", MASK[..., :2]), "expected .height, width, 3 or 1"),
    "text": (_replace("image", np.full((2, 2, 4), b"x")), "holds no numbers"),
    "NaN mask": (_replace("mask", MASK * np.nan), "mask values that are NaN"),
    "resampled mask": (_replace("mask", MASK + 0.25), "labels 0.25: labels are whole numbers"),
    "other labels": (_replace("mask", MASK + 7), "labels 7, which binary does not have"),
    "mask of everything": (_replace("mask", MASK + 1), r"marks \d+% of the brain"),
    "absurd shape": (_absurd_shape, "cannot be read as HDF5"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    spoil, reason = BAD_FILES[kind]
    spoil(write_slice(tmp_path, 1, 1))
    assert_refused("brats-h5", tmp_path, reason, "volume_1_slice_1.h5")

"""NIfTI volumes: the names of four challenges, orientation, and refusals."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.sources import Volume, open_source

SHAPE = (6, 5, 4)  # x, y, z of the file


def save(path: Path, values: np.ndarray, zooms: tuple[float, ...] = (1, 1, 1)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([-1, -1, 1, 1]))
    image.header.set_zooms(zooms)
    nib.save(image, path)
    return path


def flair() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def labels() -> np.ndarray:
    values = np.zeros(SHAPE, np.uint8)
    values[0, 1, 2], values[3, 1, 2], values[5, 4, 3] = 1, 2, 4
    return values


def write_patient(folder: Path, name: str, suffix: str = ".nii.gz") -> Path:
    save(folder / f"{name}_seg{suffix}", labels())
    return save(folder / f"{name}_flair{suffix}", flair())


def read_only_patient(root: Path, channel: int | None = None) -> Volume:
    source = open_source("brats-nifti", root, channel)
    (patient,) = source.patients()
    return source.read(patient)


@pytest.mark.parametrize(
    ("folder", "name", "suffix", "grade"),
    [
        ("HGG", "Brats18_2013_11_1", ".nii.gz", "HGG"),
        ("LGG", "BraTS19_TCIA10_103_1", ".nii.gz", "LGG"),
        ("MICCAI_BraTS2020_TrainingData", "BraTS20_Training_001", ".nii", None),
        (".", "BraTS2021_00000", ".nii.gz", None),
    ],
)
def test_names_of_each_year(
    tmp_path: Path, folder: str, name: str, suffix: str, grade: str | None
) -> None:
    write_patient(tmp_path / folder / name, name, suffix)
    volume = read_only_patient(tmp_path)
    assert (volume.patient_id, volume.grade) == (name, grade)
    assert (volume.image.dtype, volume.mask.dtype) == (np.float32, np.uint8)


def test_grade_is_not_read_from_folders_above_the_root(tmp_path: Path) -> None:
    write_patient(tmp_path / "LGG" / "somewhere" / "P", "P")
    assert read_only_patient(tmp_path / "LGG" / "somewhere").grade is None
    assert read_only_patient(tmp_path / "LGG").grade == "LGG"


def test_slices_come_first_neither_flipped_nor_transposed(tmp_path: Path) -> None:
    save(tmp_path / "P_flair.nii.gz", flair(), (0.5, 0.75, 3.0))
    save(tmp_path / "P_seg.nii.gz", labels())
    volume = read_only_patient(tmp_path)
    for z in range(SHAPE[2]):
        assert np.array_equal(volume.image[z], flair()[:, :, z])
        assert np.array_equal(volume.mask[z], labels()[:, :, z] > 0)
    assert volume.spacing_mm == (3.0, 0.5, 0.75)
    assert volume.slice_indices.tolist() == list(range(SHAPE[2]))
    assert volume.contiguous


@pytest.mark.parametrize("axes", ["RAS", "ARI", "SPL", "PIR"])
def test_a_volume_is_the_same_however_it_was_stored(tmp_path: Path, axes: str) -> None:
    affine = np.diag([-0.5, -0.75, 3.0, 1.0])
    wanted = nib.orientations.axcodes2ornt(axes)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    for part, values in (("flair", flair()), ("seg", labels())):
        turned = nib.Nifti1Image(values, affine).as_reoriented(turn)
        nib.save(turned, tmp_path / f"P_{part}.nii.gz")
    volume = read_only_patient(tmp_path)
    assert np.array_equal(volume.image, np.moveaxis(flair(), -1, 0))
    assert np.array_equal(volume.mask, np.moveaxis(labels(), -1, 0) > 0)
    assert volume.spacing_mm == (3.0, 0.5, 0.75)


def test_a_mask_that_lies_otherwise_than_its_image_is_refused(tmp_path: Path) -> None:
    write_patient(tmp_path, "P")
    nib.save(nib.Nifti1Image(labels(), np.diag([2, -1, 1, 1])), tmp_path / "P_seg.nii.gz")
    with pytest.raises(UserError, match=r"P_seg.nii.gz: its axes point to RPS, .* to LPS"):
        read_only_patient(tmp_path)


def test_a_mask_that_states_no_axes_is_taken_to_lie_as_its_image(tmp_path: Path) -> None:
    write_patient(tmp_path, "P")
    nib.save(nib.Nifti1Image(labels(), np.eye(4)), tmp_path / "P_seg.nii.gz")
    assert np.array_equal(read_only_patient(tmp_path).mask[2], labels()[:, :, 2] > 0)


def test_header_scaling_is_applied(tmp_path: Path) -> None:
    write_patient(tmp_path, "P")
    image = nib.Nifti1Image(flair(), np.eye(4))
    image.header.set_slope_inter(2.0, -7.0)
    nib.save(image, tmp_path / "P_flair.nii.gz")
    stored = np.moveaxis(np.asarray(nib.load(tmp_path / "P_flair.nii.gz").dataobj), -1, 0)
    assert np.array_equal(read_only_patient(tmp_path).image, stored.astype(np.float32))


def test_channel_selects_the_modality_file(tmp_path: Path) -> None:
    write_patient(tmp_path, "P")
    save(tmp_path / "P_t2.nii.gz", flair() + 1000)
    assert read_only_patient(tmp_path, 3).image.min() == 1000
    with pytest.raises(UserError, match=r"no file P_t1\.nii"):
        read_only_patient(tmp_path, 1)


def test_lone_misnamed_segmentation_is_adopted(tmp_path: Path) -> None:
    folder = tmp_path / "BraTS20_Training_355"
    write_patient(folder, "BraTS20_Training_355", ".nii")
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    write_patient(tmp_path / "BraTS20_Training_356", "BraTS20_Training_356", ".nii")
    source = open_source("brats-nifti", tmp_path)
    read = [source.read(patient) for patient in source.patients()]
    assert [int(volume.mask.sum()) for volume in read] == [3, 3]
    assert source.missing_files() == []


def test_two_misnamed_segmentations_are_not_guessed_between(tmp_path: Path) -> None:
    save(tmp_path / "P_flair.nii", flair())
    for name in ("first_Segm.nii", "second_Segm.nii"):
        save(tmp_path / name, labels())
    with pytest.raises(UserError, match=r"no file P_seg\.nii"):
        read_only_patient(tmp_path)


def test_patient_without_segmentation_is_refused_and_counted(tmp_path: Path) -> None:
    write_patient(tmp_path / "a", "a")
    save(tmp_path / "b" / "b_flair.nii.gz", flair())
    source = open_source("brats-nifti", tmp_path)
    good, bad = source.patients()
    assert source.read(good).mask.any()
    assert source.missing_files() == ["b_seg.nii.gz"]
    with pytest.raises(UserError, match=r"no file b_seg\.nii"):
        source.read(bad)


@pytest.mark.parametrize("second", ["LGG/P/P_flair.nii.gz", "HGG/P/P_flair.nii"])
def test_two_volumes_of_one_name_are_refused(tmp_path: Path, second: str) -> None:
    write_patient(tmp_path / "HGG" / "P", "P")
    save(tmp_path / second, flair())
    with pytest.raises(UserError, match="are both the flair volume of one patient"):
        open_source("brats-nifti", tmp_path).patients()


def test_read_channels_marks_absent_modalities(tmp_path: Path) -> None:
    path = write_patient(tmp_path, "P")
    image, planes = open_source("brats-nifti", tmp_path).read_channels(path)
    assert np.isfinite(image).all(axis=(1, 2, 3)).tolist() == [True, False, False, False]
    assert planes.sum(axis=(1, 2, 3)).tolist() == [1, 1, 0, 1]


def _write_4d(path: Path) -> None:
    save(path, np.zeros((*SHAPE, 2), np.int16), (1, 1, 1, 1))


def _write_nan(path: Path) -> None:
    values = flair().astype(np.float32)
    values[1, 1, 1] = np.nan
    save(path, values)


def _declare(dimensions: tuple[int, ...]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape(dimensions)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        noise = np.random.default_rng(0).bytes(1000)
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + noise))

    return write


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


BAD_FLAIR: dict[str, tuple[Callable[[Path], None], str]] = {
    "4-D": (_write_4d, r"is 4-D, shape \(6, 5, 4, 2\)"),
    "NaN": (_write_nan, "1 image values that are NaN"),
    "wider than allowed": (_declare((2000, 5, 4)), "allowed are at most"),
    "larger than allowed": (_declare((1024, 1024, 1024)), "allowed are at most"),
    "more than the file can hold": (_declare((512, 512, 155)), "on disk cannot hold"),
    "less in the file than declared": (_declare((40, 40, 40)), "cannot be read as NIfTI"),
    "truncated": (_truncate, "cannot be read as NIfTI"),
    "not NIfTI": (lambda path: path.write_text("hello"), "cannot be read as NIfTI"),
    "another shape": (lambda path: save(path, flair()[1:]), "mask of shape"),
    "complex": (lambda path: save(path, flair().astype(np.complex64)), "not plain numbers"),
}


@pytest.mark.parametrize("kind", BAD_FLAIR)
def test_bad_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    spoil, reason = BAD_FLAIR[kind]
    spoil(write_patient(tmp_path, "P"))
    with pytest.raises(UserError, match=reason) as refusal:
        read_only_patient(tmp_path)
    assert f"{tmp_path}/P_" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_truncated_uncompressed_volume_is_refused(tmp_path: Path) -> None:
    _truncate(write_patient(tmp_path, "P", ".nii"))
    with pytest.raises(UserError, match=r"P_flair\.nii declares \d+ bytes"):
        read_only_patient(tmp_path)


def test_hidden_twins_of_other_systems_are_ignored(tmp_path: Path) -> None:
    write_patient(tmp_path, "P")
    (tmp_path / "._P_flair.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    assert read_only_patient(tmp_path).patient_id == "P"


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} holds no file named <patient>_flair"):
        open_source("brats-nifti", tmp_path).patients()

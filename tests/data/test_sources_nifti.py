"""NIfTI volumes: modalities, one reading of headers and labels, and refusals."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.cache import CacheSettings
from seglab.data.sources.base import open_source
from tests.data.files import LPS, assert_refused, pipe, read_only_patient, save_nifti
from tests.data.memory import prepare

SETTINGS = CacheSettings(32, "brain", "zscore", "auto")
SHAPE = (6, 5, 4)  # x, y, z of the file
FLAIR = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[0, 1, 2], LABELS[3, 1, 2], LABELS[5, 4, 3] = 1, 2, 4
CANONICAL = np.moveaxis(np.where(LABELS == 4, 3, LABELS), -1, 0)

read = partial(read_only_patient, "brats-nifti")


def write_patient(folder: Path, name: str = "P", suffix: str = ".nii.gz") -> Path:
    save_nifti(folder / f"{name}_seg{suffix}", LABELS)
    return save_nifti(folder / f"{name}_flair{suffix}", FLAIR)


@pytest.mark.parametrize(
    ("folder", "suffix", "grade"),
    [("HGG/P", ".nii.gz", "HGG"), ("lgg/P", ".nii", "LGG"), (".", ".nii.gz", None)],
)
def test_grade_comes_from_folders(
    tmp_path: Path, folder: str, suffix: str, grade: str | None
) -> None:
    write_patient(tmp_path / folder, "BraTS2021_00000", suffix)
    volume = read(tmp_path)
    assert (volume.patient_id, volume.grade) == ("BraTS2021_00000", grade)
    assert (volume.images.dtype, volume.labels.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "ARI", "SPL", "PIR"])
@pytest.mark.parametrize("mask_axes", ["LPS", "ARI"])
def test_a_volume_is_the_same_however_it_was_stored(
    tmp_path: Path, axes: str, mask_axes: str
) -> None:
    affine = np.array([[-0.5, 0, 0, 7], [0, -0.75, 0, 9], [0, 0, 3.0, -4], [0, 0, 0, 1]])
    for part, values, wanted in (("flair", FLAIR, axes), ("seg", LABELS, mask_axes)):
        there = nib.orientations.axcodes2ornt(wanted)
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), there)
        turned = nib.Nifti1Image(values, affine).as_reoriented(turn)
        nib.save(turned, tmp_path / f"P_{part}.nii.gz")
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.images[0], np.moveaxis(FLAIR, -1, 0))
    np.testing.assert_array_equal(volume.labels, CANONICAL)
    assert volume.spacing_mm == (3.0, 0.5, 0.75)
    assert volume.slice_indices.tolist() == list(range(SHAPE[2]))
    assert (volume.convention, volume.parts_known, volume.remarks) == ("brats2017", True, ())


@pytest.mark.parametrize(
    "change", [np.diag([-1, 1, 1, 1]), np.diag([1.2, 1, 1, 1]), [0.6, 0, 0], [0, 0, 40]]
)
@pytest.mark.parametrize("part", ["seg", "t2"])
def test_a_file_that_lies_elsewhere_is_refused(
    tmp_path: Path, change: np.ndarray | list[float], part: str
) -> None:
    write_patient(tmp_path)
    change = np.array(change, float)
    shift = nib.affines.from_matvec(np.eye(3), change) if change.ndim == 1 else change
    save_nifti(tmp_path / f"P_{part}.nii.gz", LABELS, shift @ LPS)
    with pytest.raises(UserError, match=rf"P_{part}.nii.gz lies elsewhere than P_flair.*voxels"):
        read(tmp_path, "flair", *([part] if part == "t2" else []))


@pytest.mark.parametrize("modalities", [("flair", "t1"), ("t1", "flair")])
def test_without_orientation_it_lies_as_the_first(
    tmp_path: Path, modalities: tuple[str, ...]
) -> None:
    ras = nib.affines.from_matvec(np.eye(3), [-20, 0, 0])
    for part, values, affine in (("flair", FLAIR, ras), ("t1", FLAIR, np.eye(4))):
        save_nifti(tmp_path / f"P_{part}.nii", values, affine)
    save_nifti(tmp_path / "P_seg.nii", LABELS, ras)
    volume = read(tmp_path, *modalities)
    np.testing.assert_array_equal(*volume.images)
    told = f"P_{modalities[1]}.nii is taken to lie as P_{modalities[0]}.nii"
    assert told in volume.remarks


def test_a_modality_that_is_cached_later_must_lie_on_the_first(tmp_path: Path) -> None:
    write_patient(tmp_path / "P")
    save_nifti(tmp_path / "P" / "P_t1ce.nii.gz", FLAIR, np.diag([1.0, -1.0, 1.0, 1.0]))
    source = open_source("brats-nifti", tmp_path / "P")
    prepare(source, SETTINGS, tmp_path / "cache")
    with pytest.raises(UserError, match=r"P_t1ce\.nii\.gz lies elsewhere than P_flair"):
        prepare(source, SETTINGS, tmp_path / "cache", modalities=("flair", "t1ce"))


def test_misnamed_absent_and_several_segmentations_are_told(tmp_path: Path) -> None:
    path = write_patient(tmp_path / "a", "a", ".nii").with_name("a_seg.nii")
    path.rename(path.with_name("W39_1998.09.19_Segm.nii"))
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.labels, CANONICAL)
    assert volume.remarks == ("segmentation: W39_1998.09.19_Segm.nii",)
    for name in ("a_seg.nii", "a_mask.nii"):
        save_nifti(tmp_path / "a" / name, LABELS)
    with pytest.raises(UserError, match=r"a has more than one segmentation: .*a_mask\.nii"):
        read(tmp_path)
    save_nifti(tmp_path / "b" / "b_flair.nii.gz", FLAIR)
    with pytest.raises(UserError, match=r"b has no segmentation: no b_seg\.nii"):
        read(tmp_path / "b")


def write_dataset(folder: Path, **content: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def test_volumes_of_several_modalities_are_read_by_their_dataset_json(tmp_path: Path) -> None:
    names = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    parts = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "4": "enhancing tumour"}
    write_dataset(tmp_path, modality=names, labels=parts)
    stack = np.stack([FLAIR + 1000 * place for place in range(4)], axis=-1)
    save_nifti(tmp_path / "imagesTr" / "BRATS_001.nii.gz", stack)
    save_nifti(tmp_path / "labelsTr" / "BRATS_001.nii.gz", LABELS)
    save_nifti(tmp_path / "imagesTs" / "BRATS_485.nii.gz", stack)
    volume = read(tmp_path, "t1ce", "flair")
    assert [image.min() for image in volume.images] == [2000, 0]
    assert (volume.convention, volume.parts_known) == ("dataset.json", True)
    expected = np.array([0, 2, 1, 0, 3])[LABELS]
    np.testing.assert_array_equal(volume.labels, np.moveaxis(expected, -1, 0))
    save_nifti(tmp_path / "imagesTr" / "BRATS_001.nii.gz", FLAIR)
    with pytest.raises(UserError, match=r"is 3-D.*dataset\.json places a modality at 0"):
        read(tmp_path)


def test_another_dataset_json_makes_another_cache(tmp_path: Path) -> None:
    for place in range(2):
        save_nifti(tmp_path / "D" / "imagesTr" / f"P_000{place}.nii", FLAIR + 100 * place)
    save_nifti(tmp_path / "D" / "labelsTr" / "P.nii", LABELS)
    hashes = set()
    for names in (["T1", "FLAIR"], ["FLAIR", "T1"]):
        write_dataset(tmp_path / "D", channel_names=dict(enumerate(names)))
        source = open_source("brats-nifti", tmp_path / "D")
        cache, reused = prepare(source, SETTINGS, tmp_path / "cache")
        assert not reused
        hashes.add(cache.data_hash)
    assert len(hashes) == 2
    assert prepare(source, SETTINGS, tmp_path / "cache")[1]


def change_header(path: Path, change: Callable[[nib.Nifti1Header], object]) -> None:
    image = nib.load(path)
    values, header = np.asarray(image.dataobj).copy(), image.header
    change(header)
    nib.save(nib.Nifti1Image(values, None, header), path)


@pytest.mark.parametrize(
    ("units", "factor", "told"),
    [("mm", 1, ""), ("unknown", 1, ""), ("meter", 0.001, "converted"),
     ("micron", 1000, "converted"), ("mm", 0.01, "volume unknown"), ("mm", 80, "volume unknown")],
)  # fmt: skip
def test_units_are_converted(tmp_path: Path, units: str, factor: float, told: str) -> None:
    affine = np.diag([-0.5, -0.75, 3.0, 1.0]) * [[factor], [factor], [factor], [1]]
    for part, values in (("flair", FLAIR), ("seg", LABELS)):
        path = save_nifti(tmp_path / f"P_{part}.nii", values, affine)
        change_header(path, lambda header: header.set_xyzt_units(units))
    volume = read(tmp_path)
    expected = None if told == "volume unknown" else pytest.approx((3.0, 0.5, 0.75))
    assert volume.spacing_mm == expected
    assert bool(volume.remarks) == bool(told)
    assert all(told in text for text in volume.remarks)


def _pixdim(header: nib.Nifti1Header) -> None:
    header["pixdim"][1:4] = 2, 2, 5


def _qform(header: nib.Nifti1Header) -> None:
    header.set_qform(nib.affines.from_matvec(np.eye(3), [0, 0, 30]) @ LPS, code=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_pixdim, "spacing 1 × 1 × 1 by its sform, 2 × 2 × 5 by pixdim: the sform is used"),
        (_qform, "its sform and qform lie 30 apart: the sform is used"),
    ],
)
def test_a_header_that_disagrees_with_itself_is_told_with_both_figures(
    tmp_path: Path, change: Callable[[nib.Nifti1Header], None], said: str
) -> None:
    change_header(write_patient(tmp_path), change)
    volume = read(tmp_path)
    assert volume.spacing_mm == (1, 1, 1)
    assert volume.remarks == (f"P_flair.nii.gz: {said}",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, 0.0, 1e-45])
def test_an_affine_that_maps_nowhere_is_no_orientation(tmp_path: Path, value: float) -> None:
    path = write_patient(tmp_path, suffix=".nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<12f", content, 280, *[value] * 12)
    path.write_bytes(content)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.images[0], np.moveaxis(FLAIR, -1, 0))
    assert "orientation is not stated" in volume.remarks[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("scaling", [(1, 0), (0.37, -12.5), (0, 5), (float("nan"), 5)])
@pytest.mark.parametrize("endianness", "<>")
def test_values_are_those_of_nibabel(
    tmp_path: Path, dtype: type, scaling: tuple[float, float], endianness: str
) -> None:
    path = write_patient(tmp_path)
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(dtype)
    # Written by hand: nibabel chooses a slope of its own.
    content = bytearray(nib.Nifti1Image((FLAIR % 250).astype(dtype), LPS, header).to_bytes())
    struct.pack_into(f"{endianness}2f", content, 112, *scaling)
    path.write_bytes(gzip.compress(content))
    expected = np.moveaxis(np.asarray(nib.load(path).dataobj), -1, 0)
    np.testing.assert_array_equal(read(tmp_path).images[0], expected.astype(np.float32))


def _declare(dimensions: tuple[int, ...]) -> Callable[[Path], None]:
    """A header that states these dimensions, before little noise."""

    def write(path: Path) -> None:
        content = bytearray(nib.Nifti1Image(FLAIR, LPS).to_bytes()[:352])
        shape = (len(dimensions), *dimensions, *[1] * (7 - len(dimensions)))
        struct.pack_into("<8h", content, 40, *shape)
        path.write_bytes(gzip.compress(content + np.random.default_rng(0).bytes(1000)))

    return write


def _wrong_checksum(path: Path) -> None:
    packed = bytearray(path.read_bytes())
    packed[-8] ^= 1
    path.write_bytes(packed)


def _save(values: np.ndarray) -> Callable[[Path], object]:
    return lambda path: save_nifti(path, values)


BAD_FLAIR: dict[str, tuple[Callable[[Path], object], str]] = {
    "4-D": (_save(np.stack([FLAIR, FLAIR], -1)), r"4-D, shape \(6, 5, 4, 2\)"),
    "2-D": (_save(FLAIR[..., 0]), r"2-D, shape \(6, 5\)"),
    "NaN": (_save(np.where(FLAIR == 9, np.nan, FLAIR)), "1 image values that are NaN"),
    "constant": (_save(0 * FLAIR), "is empty: every value is 0"),
    "a mask": (_save(LABELS), "holds only the values 0, 1, 2, 4: a mask"),
    "larger than any file": (_declare((1024, 1024, 1024)), "on disk cannot hold"),
    "more than the file can hold": (_declare((512, 512, 155)), "on disk cannot hold"),
    "less in the file than declared": (_declare((40, 40, 40)), "cannot be read as NIfTI"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "cannot be read as"),
    "wrong checksum": (_wrong_checksum, "cannot be read as NIfTI"),
    "another shape": (_save(FLAIR[1:]), r"shape \(6, 5, 4\); .* has \(5, 5, 4\)"),
    "complex": (_save(FLAIR.astype(np.complex64)), "not plain numbers"),
    "pipe": (pipe, "is not a file"),
}


@pytest.mark.parametrize("kind", BAD_FLAIR)
def test_bad_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    spoil, reason = BAD_FLAIR[kind]
    spoil(write_patient(tmp_path))
    assert_refused("brats-nifti", tmp_path, reason, f"{tmp_path}/P_")

"""NIfTI volumes: modalities, one reading of headers and labels, and refusals."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.cache import CacheSettings
from seglab.data.sources.base import open_source
from seglab.data.volume import Volume
from tests.data.memory import prepare

SHAPE = (6, 5, 4)  # x, y, z of the file
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def flair() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def labels() -> np.ndarray:
    values = np.zeros(SHAPE, np.uint8)
    values[0, 1, 2], values[3, 1, 2], values[5, 4, 3] = 1, 2, 4
    return values


CANONICAL = np.moveaxis(np.where(labels() == 4, 3, labels()), -1, 0)


def write_patient(folder: Path, name: str, suffix: str = ".nii.gz") -> Path:
    save(folder / f"{name}_seg{suffix}", labels())
    return save(folder / f"{name}_flair{suffix}", flair())


def read_only_patient(root: Path, *modalities: str, **options: object) -> Volume:
    source = open_source("brats-nifti", root, **options)
    (patient,) = source.patients()
    return source.read(patient, modalities or ("flair",))


@pytest.mark.parametrize(
    ("folder", "name", "suffix", "grade"),
    [
        ("HGG", "Brats18_2013_11_1", ".nii.gz", "HGG"),
        ("LGG", "BraTS19_TCIA10_103_1", ".nii.gz", "LGG"),
        ("MICCAI_BraTS2020_TrainingData", "BraTS20_Training_001", ".nii", None),
        (".", "BraTS2021_00000", ".nii.gz", None),
    ],
)
def test_grade_comes_from_the_folders(
    tmp_path: Path, folder: str, name: str, suffix: str, grade: str | None
) -> None:
    write_patient(tmp_path / folder / name, name, suffix)
    volume = read_only_patient(tmp_path)
    assert (volume.patient_id, volume.grade) == (name, grade)
    assert (volume.images.dtype, volume.labels.dtype) == (np.float32, np.uint8)


def test_slices_come_first_neither_flipped_nor_transposed(tmp_path: Path) -> None:
    affine = np.diag([-0.5, -0.75, 3.0, 1.0])
    save(tmp_path / "P_flair.nii.gz", flair(), affine)
    save(tmp_path / "P_seg.nii.gz", labels(), affine)
    volume = read_only_patient(tmp_path)
    np.testing.assert_array_equal(volume.images[0], np.moveaxis(flair(), -1, 0))
    np.testing.assert_array_equal(volume.labels, CANONICAL)
    assert volume.spacing_mm == (3.0, 0.5, 0.75)
    assert volume.slice_indices.tolist() == list(range(SHAPE[2]))
    assert (volume.convention, volume.parts_known, volume.remarks) == ("brats2017", True, ())


@pytest.mark.parametrize("axes", ["RAS", "ARI", "SPL", "PIR"])
@pytest.mark.parametrize("mask_axes", ["LPS", "ARI"])
def test_a_volume_is_the_same_however_image_and_mask_were_stored(
    tmp_path: Path, axes: str, mask_axes: str
) -> None:
    affine = np.array([[-0.5, 0, 0, 7], [0, -0.75, 0, 9], [0, 0, 3.0, -4], [0, 0, 0, 1]])
    for part, values, wanted in (("flair", flair(), axes), ("seg", labels(), mask_axes)):
        there = nib.orientations.axcodes2ornt(wanted)
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), there)
        turned = nib.Nifti1Image(values, affine).as_reoriented(turn)
        nib.save(turned, tmp_path / f"P_{part}.nii.gz")
    volume = read_only_patient(tmp_path)
    np.testing.assert_array_equal(volume.images[0], np.moveaxis(flair(), -1, 0))
    np.testing.assert_array_equal(volume.labels, CANONICAL)
    assert volume.spacing_mm == (3.0, 0.5, 0.75)


@pytest.mark.parametrize(
    "change", [np.diag([-1, 1, 1, 1]), np.diag([1.2, 1, 1, 1]), [0.6, 0, 0], [0, 0, 40]]
)
@pytest.mark.parametrize("part", ["seg", "t2"])
def test_a_file_that_lies_elsewhere_is_refused(
    tmp_path: Path, change: np.ndarray | list[float], part: str
) -> None:
    write_patient(tmp_path, "P")
    change = np.array(change, float)
    shift = nib.affines.from_matvec(np.eye(3), change) if change.ndim == 1 else change
    save(tmp_path / f"P_{part}.nii.gz", labels(), shift @ LPS)
    with pytest.raises(UserError, match=rf"P_{part}.nii.gz lies elsewhere than P_flair.*voxels"):
        read_only_patient(tmp_path, "flair", *([part] if part == "t2" else []))


@pytest.mark.parametrize("modalities", [("flair", "t1"), ("t1", "flair")])
def test_a_modality_without_orientation_lies_as_the_first(
    tmp_path: Path, modalities: tuple[str, ...]
) -> None:
    ras = nib.affines.from_matvec(np.diag([1, 1, 1]), [-20, 0, 0])
    for part, values, affine in (("flair", flair(), ras), ("t1", flair(), np.eye(4))):
        save(tmp_path / f"P_{part}.nii", values, affine)
    save(tmp_path / "P_seg.nii", labels(), ras)
    volume = read_only_patient(tmp_path, *modalities)
    np.testing.assert_array_equal(*volume.images)
    told = f"P_{modalities[1]}.nii is taken to lie as P_{modalities[0]}.nii"
    assert told in volume.remarks


def test_a_modality_that_is_cached_later_must_lie_on_the_first(tmp_path: Path) -> None:
    write_patient(tmp_path / "P", "P")
    save(tmp_path / "P" / "P_t1ce.nii.gz", flair(), np.diag([1.0, -1.0, 1.0, 1.0]))
    source = open_source("brats-nifti", tmp_path / "P")
    settings = CacheSettings(32, "brain", "zscore", "auto")
    prepare(source, settings, tmp_path / "cache")
    with pytest.raises(UserError, match=r"P_t1ce\.nii\.gz lies elsewhere than P_flair"):
        prepare(source, settings, tmp_path / "cache", modalities=("flair", "t1ce"))


def test_a_misnamed_segmentation_is_taken_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "BraTS20_Training_355"
    write_patient(folder, "BraTS20_Training_355", ".nii")
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    volume = read_only_patient(tmp_path)
    np.testing.assert_array_equal(volume.labels, CANONICAL)
    assert volume.remarks == ("segmentation: W39_1998.09.19_Segm.nii",)


def test_absent_and_several_segmentations_are_named(tmp_path: Path) -> None:
    write_patient(tmp_path / "a", "a")
    save(tmp_path / "b" / "b_flair.nii.gz", flair())
    source = open_source("brats-nifti", tmp_path)
    good, bad = source.patients()
    assert source.read(good).labels.any()
    with pytest.raises(UserError, match=r"b has no segmentation: no b_seg\.nii"):
        source.read(bad)
    save(tmp_path / "a" / "a_mask.nii", labels())
    with pytest.raises(UserError, match=r"a has more than one segmentation: .*a_mask\.nii"):
        read_only_patient(tmp_path / "a")


def test_volumes_of_several_modalities_are_read_by_their_dataset_json(tmp_path: Path) -> None:
    names = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    parts = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "4": "enhancing tumour"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": names, "labels": parts}))
    stack = np.stack([flair() + 1000 * place for place in range(4)], axis=-1)
    save(tmp_path / "imagesTr" / "BRATS_001.nii.gz", stack)
    save(tmp_path / "labelsTr" / "BRATS_001.nii.gz", labels())
    save(tmp_path / "imagesTs" / "BRATS_485.nii.gz", stack)
    volume = read_only_patient(tmp_path, "t1ce", "flair")
    assert [image.min() for image in volume.images] == [2000, 0]
    assert (volume.convention, volume.parts_known) == ("dataset.json", True)
    expected = {0: 0, 1: 2, 2: 1, 4: 3}
    np.testing.assert_array_equal(
        volume.labels, np.moveaxis(np.vectorize(expected.get)(labels()), -1, 0)
    )


def test_one_image_is_not_taken_for_several_modalities(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "FLAIR", "1": "T1"}}))
    save(tmp_path / "imagesTr" / "P.nii", flair())
    save(tmp_path / "labelsTr" / "P.nii", labels())
    with pytest.raises(UserError, match=r"P\.nii is 3-D.*dataset\.json places a modality at 0"):
        read_only_patient(tmp_path)


def test_another_dataset_json_makes_another_cache(tmp_path: Path) -> None:
    for place in range(2):
        save(tmp_path / "D" / "imagesTr" / f"P_000{place}.nii", flair() + 100 * place)
    save(tmp_path / "D" / "labelsTr" / "P.nii", labels())
    settings, hashes = CacheSettings(32, "brain", "zscore", "auto"), set()
    for names in (["T1", "FLAIR"], ["FLAIR", "T1"]):
        content = json.dumps({"channel_names": dict(enumerate(names))})
        (tmp_path / "D" / "dataset.json").write_text(content)
        source = open_source("brats-nifti", tmp_path / "D")
        cache, reused = prepare(source, settings, tmp_path / "cache")
        assert not reused
        hashes.add(cache.data_hash)
    assert len(hashes) == 2
    assert prepare(source, settings, tmp_path / "cache")[1]


def change_header(path: Path, change: Callable[[nib.Nifti1Header], object]) -> None:
    image = nib.load(path)
    values, header = np.asarray(image.dataobj).copy(), image.header
    change(header)
    nib.save(nib.Nifti1Image(values, None, header), path)


@pytest.mark.parametrize(
    ("units", "factor"), [("mm", 1), ("unknown", 1), ("meter", 0.001), ("micron", 1000)]
)
def test_units_are_converted(tmp_path: Path, units: str, factor: float) -> None:
    affine = np.diag([-0.5, -0.75, 3.0, 1.0]) * [[factor], [factor], [factor], [1]]
    for part, values in (("flair", flair()), ("seg", labels())):
        path = save(tmp_path / f"P_{part}.nii", values, affine)
        change_header(path, lambda header: header.set_xyzt_units(units))
    volume = read_only_patient(tmp_path)
    assert volume.spacing_mm == pytest.approx((3.0, 0.5, 0.75))
    assert [("converted" in text) for text in volume.remarks] == [True] * (factor != 1)


@pytest.mark.parametrize("steps", [(0.001, 0.001, 0.001), (1, 1, 50), (240, 240, 155)])
def test_implausible_spacing_is_unknown(tmp_path: Path, steps: tuple[float, ...]) -> None:
    affine = np.diag([-steps[0], -steps[1], steps[2], 1.0])
    save(tmp_path / "P_flair.nii", flair(), affine)
    save(tmp_path / "P_seg.nii", labels(), affine)
    volume = read_only_patient(tmp_path)
    assert volume.spacing_mm is None
    assert "volume unknown" in volume.remarks[0]


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
    change_header(write_patient(tmp_path, "P"), change)
    volume = read_only_patient(tmp_path)
    assert volume.spacing_mm == (1, 1, 1)
    assert volume.remarks == (f"P_flair.nii.gz: {said}",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, 0.0, 1e-45])
def test_an_affine_that_maps_nowhere_is_no_orientation(tmp_path: Path, value: float) -> None:
    path = write_patient(tmp_path, "P", ".nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<12f", content, 280, *[value] * 12)
    path.write_bytes(content)
    volume = read_only_patient(tmp_path)
    np.testing.assert_array_equal(volume.images[0], np.moveaxis(flair(), -1, 0))
    assert "orientation is not stated" in volume.remarks[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("scaling", [(1, 0), (0.37, -12.5), (0, 5), (float("nan"), 5)])
@pytest.mark.parametrize("endianness", "<>")
def test_values_are_those_of_nibabel(
    tmp_path: Path, dtype: type, scaling: tuple[float, float], endianness: str
) -> None:
    write_patient(tmp_path, "P")
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(dtype)
    # Written by hand: nibabel chooses a slope of its own.
    content = bytearray(nib.Nifti1Image((flair() % 250).astype(dtype), LPS, header).to_bytes())
    struct.pack_into(f"{endianness}2f", content, 112, *scaling)
    path = tmp_path / "P_flair.nii.gz"
    path.write_bytes(gzip.compress(content))
    expected = np.moveaxis(np.asarray(nib.load(path).dataobj), -1, 0)
    np.testing.assert_array_equal(
        read_only_patient(tmp_path).images[0], expected.astype(np.float32)
    )


def _write_nan(path: Path) -> None:
    values = flair().astype(np.float32)
    values[1, 1, 1] = np.nan
    save(path, values)


def _declare(dimensions: tuple[int, ...], kind: int = 4) -> Callable[[Path], None]:
    """A header that states these dimensions and this type, before little noise."""

    def write(path: Path) -> None:
        content = bytearray(nib.Nifti1Image(flair(), LPS).to_bytes()[:352])
        shape = (len(dimensions), *dimensions, *[1] * (7 - len(dimensions)))
        struct.pack_into("<8h", content, 40, *shape)
        struct.pack_into("<h", content, 70, kind)
        noise = np.random.default_rng(0).bytes(1000)
        path.write_bytes(gzip.compress(bytes(content) + noise))

    return write


def _wrong_checksum(path: Path) -> None:
    packed = bytearray(path.read_bytes())
    packed[-8] ^= 1
    path.write_bytes(packed)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BAD_FLAIR: dict[str, tuple[Callable[[Path], object], str]] = {
    "4-D": (lambda path: save(path, np.zeros((*SHAPE, 2), np.int16)), r"4-D, shape \(6, 5, 4, 2\)"),
    "2-D": (lambda path: save(path, np.zeros(SHAPE[:2], np.int16)), r"2-D, shape \(6, 5\)"),
    "NaN": (_write_nan, "1 image values that are NaN"),
    "constant": (lambda path: save(path, 0 * flair()), "is empty: every value is 0"),
    "a mask": (lambda path: save(path, labels()), "holds only the values 0, 1, 2, 4: a mask"),
    "larger than any file": (_declare((1024, 1024, 1024)), "on disk cannot hold"),
    "more than the file can hold": (_declare((512, 512, 155)), "on disk cannot hold"),
    "less in the file than declared": (_declare((40, 40, 40)), "cannot be read as NIfTI"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "cannot be read as"),
    "wrong checksum": (_wrong_checksum, "cannot be read as NIfTI"),
    "another shape": (lambda path: save(path, flair()[1:]), "the shape"),
    "complex": (lambda path: save(path, flair().astype(np.complex64)), "not plain numbers"),
    "pipe": (_pipe, "is not a file"),
}


@pytest.mark.parametrize("kind", BAD_FLAIR)
def test_bad_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    spoil, reason = BAD_FLAIR[kind]
    spoil(write_patient(tmp_path, "P"))
    with pytest.raises(UserError, match=reason) as refusal:
        read_only_patient(tmp_path)
    assert f"{tmp_path}/P_" in str(refusal.value)
    assert "\n" not in str(refusal.value)

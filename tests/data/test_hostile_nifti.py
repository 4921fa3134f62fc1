"""NIfTI headers that lie."""

from __future__ import annotations

import gzip
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.scans import find_scans
from seglab.data.sources import Volume, open_source
from seglab.data.sources.nifti import read_nifti
from tests.fuzz.memory import growth

SHAPE = (6, 5, 4)
LARGEST_GROWTH = 100 << 20
VALUES = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)

Lie = tuple[int, str, tuple[float, ...]]
"""Place in a NIfTI-1 header, the types there, and the values to claim."""


def volume_bytes(endianness: str = "<") -> bytearray:
    image = nib.Nifti1Image(VALUES, np.diag([-1, -1, 1, 1]), nib.Nifti1Header(None, endianness))
    return bytearray(image.to_bytes())


def read(folder: Path, content: bytes, suffix: str) -> Volume:
    """Read as a patient, and as a scan, which must take and refuse the same."""
    path = folder / f"P_flair{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix == ".nii.gz" else content)
    (folder / "P_seg.nii").write_bytes(volume_bytes())
    source = open_source("brats-nifti", folder)
    scan = find_scans([path])[0][0]
    try:
        volume = source.read(source.patients()[0])
    except UserError:
        with pytest.raises(UserError):
            scan.read()
        raise
    assert sorted(scan.read().image.ravel()) == sorted(volume.image.ravel())
    return volume


DIM, DATATYPE, OFFSET, SLOPE, INTERCEPT, PIXDIM = 40, 70, 108, 112, 116, 76
REFUSED: dict[str, tuple[Lie, str]] = {
    "negative side": ((DIM, "8h", (3, -6, 5, 4, 1, 1, 1, 1)), "P_flair"),
    "no side": ((DIM, "8h", (3, 0, 5, 4, 1, 1, 1, 1)), "allowed are at most"),
    "no dimension": ((DIM, "h", (0,)), "P_flair"),
    "nine dimensions": ((DIM, "h", (9,)), "P_flair"),
    "one more dimension": ((DIM, "8h", (4, 6, 5, 2, 2, 1, 1, 1)), "is 4-D"),
    "more than there is": ((DIM, "8h", (3, 1000, 1000, 100, 1, 1, 1, 1)), "cannot hold"),
    "overflowing": ((DIM, "8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)), "allowed are at most"),
    "colours": ((DATATYPE, "2h", (128, 24)), "not plain numbers"),
    "no type": ((DATATYPE, "2h", (0, 0)), "P_flair"),
    "unknown type": ((DATATYPE, "2h", (9999, 16)), "P_flair"),
    "wider type": ((DATATYPE, "2h", (1536, 128)), "P_flair"),
    "far data": ((OFFSET, "f", (1e9,)), "cannot hold"),
    "infinitely far data": ((OFFSET, "f", (float("inf"),)), "P_flair"),
    "data nowhere": ((OFFSET, "f", (float("nan"),)), "P_flair"),
    "data before the file": ((OFFSET, "f", (-1e6,)), "P_flair"),
    "data beyond the end": ((OFFSET, "f", (4000.0,)), "P_flair"),
    "infinite intercept": ((SLOPE, "2f", (1.0, float("inf"))), "P_flair"),
    "NaN intercept": ((SLOPE, "2f", (1.0, float("nan"))), "P_flair"),
    "overflowing slope": ((SLOPE, "f", (3e38,)), "NaN or infinite"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_lie_is_refused_by_name_and_costs_little(tmp_path: Path, kind: str, suffix: str) -> None:
    (place, types, values), reason = REFUSED[kind]
    content = volume_bytes()
    struct.pack_into(f"<{types}", content, place, *values)

    def refuse() -> None:
        # Compressed, a small file may hold what is claimed: it is then told while reading.
        with pytest.raises(UserError, match=f"P_flair{suffix}") as refusal:
            read(tmp_path, bytes(content), suffix)
        assert suffix == ".nii.gz" or reason in str(refusal.value)
        assert "\n" not in str(refusal.value)

    assert growth(refuse) < LARGEST_GROWTH


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_a_slope_that_says_nothing_changes_nothing(tmp_path: Path, slope: float) -> None:
    content = volume_bytes()
    struct.pack_into("<2f", content, SLOPE, slope, 5.0)
    image = read(tmp_path, bytes(content), ".nii").image
    np.testing.assert_array_equal(image, np.moveaxis(VALUES, -1, 0))


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), 1e-45])
def test_spacing_is_positive_or_unknown(tmp_path: Path, step: float) -> None:
    content = volume_bytes()
    struct.pack_into("<f", content, PIXDIM + 4, step)
    spacing = read(tmp_path, bytes(content), ".nii").spacing_mm
    assert spacing is None or (np.isfinite(spacing).all() and min(spacing) > 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, 0.0, 1e-45])
def test_an_affine_that_maps_nowhere_is_no_orientation(tmp_path: Path, value: float) -> None:
    content = volume_bytes()
    struct.pack_into("<12f", content, 280, *[value] * 12)
    image = read(tmp_path, bytes(content), ".nii").image
    np.testing.assert_array_equal(image, np.moveaxis(VALUES, -1, 0))


def test_either_byte_order_is_read_and_a_mixture_refused(tmp_path: Path) -> None:
    image = read(tmp_path, bytes(volume_bytes(">")), ".nii").image
    np.testing.assert_array_equal(image, np.moveaxis(VALUES, -1, 0))
    mixed = volume_bytes(">")
    mixed[:348] = volume_bytes("<")[:348]
    mixed[DIM : DIM + 16] = mixed[DIM : DIM + 16][::-1]
    with pytest.raises(UserError, match="P_flair"):
        read(tmp_path, bytes(mixed), ".nii")


def extended(esize: int, zeros: int) -> Iterator[bytes]:
    """A header that claims an extension of ``esize`` bytes, and so many zeros behind it."""
    content = volume_bytes()
    struct.pack_into("<f", content, OFFSET, 4096.0)
    yield bytes(content[:348]) + b"\1\0\0\0" + struct.pack("<ii", esize, 0)
    yield from (bytes(1 << 20) for _ in range(zeros >> 20))


@pytest.mark.parametrize("esize", [-1, 0, 8, 2**31 - 1, -(2**31)])
def test_a_bomb_behind_a_header_extension_is_not_inflated(tmp_path: Path, esize: int) -> None:
    path = tmp_path / "P_flair.nii.gz"
    held = io.BytesIO()
    with gzip.GzipFile(fileobj=held, mode="wb", compresslevel=1) as file:
        file.writelines(extended(esize, zeros=300 << 20))
    path.write_bytes(held.getvalue())
    del held
    (tmp_path / "P_seg.nii").write_bytes(volume_bytes())
    source = open_source("brats-nifti", tmp_path)

    def refuse() -> None:
        with pytest.raises(UserError, match=f"header extension of {esize} bytes"):
            source.read(source.patients()[0])

    assert growth(refuse) < LARGEST_GROWTH


def test_sound_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VALUES, np.eye(4))
    image.header.extensions += [
        nib.nifti1.Nifti1Extension("comment", b"x" * length) for length in (1, 100, 5000)
    ]
    read_back = read(tmp_path, image.to_bytes(), ".nii.gz").image
    np.testing.assert_array_equal(read_back, np.moveaxis(VALUES, -1, 0))


def test_what_follows_the_data_is_not_inflated(tmp_path: Path) -> None:
    content = bytes(volume_bytes()) + bytes(300 << 20)
    assert growth(lambda: read(tmp_path, content, ".nii.gz")) < LARGEST_GROWTH


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "P_flair.nii")
    (tmp_path / "P_seg.nii").write_bytes(volume_bytes())
    source = open_source("brats-nifti", tmp_path)
    with pytest.raises(UserError, match="is not a file"):
        source.read(source.patients()[0])


def test_flipped_bits_are_damage_or_data_whoever_inflates(tmp_path: Path) -> None:
    """isal's errors are of a family of their own."""
    stream, path = np.random.default_rng(0), tmp_path / "flipped.nii.gz"
    values = stream.integers(0, 300, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    sound, refused = path.read_bytes(), 0
    for number in range(300):
        damaged = bytearray(sound)
        for place in stream.integers(20, len(sound), 3):
            damaged[place] ^= 1 << stream.integers(8)
        path.write_bytes(damaged[: stream.integers(30, len(sound))] if number % 3 == 0 else damaged)
        try:
            read_nifti(path)
        except UserError:
            refused += 1
    assert refused > 250


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "P_flair.nii.gz"
    packed = bytearray(gzip.compress(volume_bytes()))
    path.write_bytes(packed)
    read_nifti(path)
    packed[-8] ^= 1
    path.write_bytes(packed)
    with pytest.raises(UserError, match="P_flair"):
        read_nifti(path)


@pytest.mark.parametrize("cut", [100, 352, 400, 500])
def test_streams_one_after_the_other_are_one_file(tmp_path: Path, cut: int) -> None:
    """As ``bgzip`` writes, and what ``cat a.gz b.gz`` means."""
    content, path = bytes(volume_bytes()), tmp_path / "P_flair.nii.gz"
    path.write_bytes(gzip.compress(content[:cut]) + gzip.compress(content[cut:]))
    assert np.array_equal(read_nifti(path)[0], np.moveaxis(VALUES, -1, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.37, -12.5), (2, 0), (1, 7)])
@pytest.mark.parametrize("endianness", "<>")
def test_values_are_those_of_nibabel(
    tmp_path: Path, dtype: type, slope: float, intercept: float, endianness: str
) -> None:
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(dtype)
    header.set_slope_inter(slope, intercept)
    values = np.random.default_rng(0).integers(0, 250, (7, 5, 3)).astype(dtype)
    path = tmp_path / "x.nii.gz"
    # Written by hand: nibabel chooses a slope of its own.
    content = bytearray(nib.Nifti1Image(values, np.eye(4), header).to_bytes())
    struct.pack_into(f"{endianness}2f", content, SLOPE, slope, intercept)
    path.write_bytes(gzip.compress(content))
    expected = np.moveaxis(np.asarray(nib.load(path).dataobj), -1, 0)
    found = read_nifti(path)[0]
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert (slope, intercept) == (1, 0) or not np.array_equal(found, np.moveaxis(values, -1, 0))

"""Damaged image files end well or with the reader's own error, as patients and as scans."""

from __future__ import annotations

import gzip
import io
import random
import struct
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from seglab.core.errors import UserError
from seglab.data.scans import find_scans
from seglab.data.sources import open_source
from tests.memory import growth

SIDE, DAMAGES = 16, 150
LARGEST_GROWTH = 1 << 28
EDGES = (0, 1, 127, 255, 32767, 65535, 2**31 - 1, 2**32 - 1)
CASE = "TCGA_CS_4941_19960909_1"
STREAM = np.random.default_rng(0)


def h5_file() -> bytes:
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        for name, values in (
            ("image", STREAM.normal(size=(SIDE, SIDE, 4))),
            ("mask", np.eye(SIDE, dtype=np.uint8)[..., None]),
        ):
            file.create_dataset(name, data=values, chunks=(8, 8, 1), compression="gzip")
    return held.getvalue()


def nifti_file() -> bytes:
    values = STREAM.integers(0, 300, (SIDE, SIDE, 5)).astype(np.int16)
    return nib.Nifti1Image(values, np.diag([-1, -1, 1, 1])).to_bytes()


def tiff_file(compression: str | None) -> bytes:
    held = io.BytesIO()
    colour = STREAM.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(colour).save(held, "TIFF", compression=compression)
    return held.getvalue()


FILES: dict[str, tuple[str, str, bytes]] = {
    "h5": ("brats-h5", "volume_1_slice_0.h5", h5_file()),
    "nifti": ("brats-nifti", "P_flair.nii", nifti_file()),
    "nifti.gz": ("brats-nifti", "P_flair.nii.gz", gzip.compress(nifti_file(), 1)),
    "tiff": ("lgg-tif", f"{CASE}.tif", tiff_file(None)),
    "packed tiff": ("lgg-tif", f"{CASE}.tif", tiff_file("tiff_lzw")),
}


def damaged(sound: bytes, number: int) -> bytes:
    """A sound file with a few bits flipped, numbers put in, ranges removed, or its end."""
    draw = random.Random(number)
    data = bytearray(sound)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(max(1, min(len(data), draw.choice((512, 10**9)))))
        kind = draw.randrange(4)
        if kind == 0:
            data[place : place + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            piece = struct.pack("<I", draw.choice(EDGES))[: draw.choice((1, 2, 4))]
            data[place : place + len(piece)] = piece
        elif kind == 2:
            del data[place : place + draw.randint(1, 64)]
        elif draw.random() < 0.3:
            del data[place:]
    return bytes(data) or b"\0"


@pytest.mark.parametrize("kind", FILES)
def test_damage_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    name, file, sound = FILES[kind]
    labels = np.zeros((SIDE, SIDE), np.uint8)
    Image.fromarray(labels).save(tmp_path / f"{CASE}_mask.tif")
    nib.save(nib.Nifti1Image(np.stack([labels] * 5, -1), np.eye(4)), tmp_path / "P_seg.nii")
    path, refused = tmp_path / file, 0

    def read_all() -> None:
        nonlocal refused
        for number in range(-1, DAMAGES):
            path.write_bytes(sound if number < 0 else damaged(sound, number))
            source = open_source(name, tmp_path)
            ((scan,), _) = find_scans([path], ("flair",))
            said = ""
            try:
                volume = source.read(source.patients()[0])
                assert np.isfinite(volume.images).all()
                scan.read()
            except UserError as error:
                said = str(error)
            assert "\n" not in said
            assert number >= 0 or not said
            refused += bool(said)

    assert growth(read_all) < LARGEST_GROWTH
    assert refused > DAMAGES / 10

"""Sound, small files of every format that is read: where damage starts from."""

from __future__ import annotations

import gzip
import io
import tempfile
from functools import cache
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIDE = 16
NUL = b"\0"
"""Stands between an experiment, its base and its overrides."""


@cache
def yaml_files() -> list[bytes]:
    paths = sorted((ROOT / "experiments").rglob("*.yaml"))
    shipped = [path.read_bytes().replace(b"base: ../", b"base: ") for path in paths]
    first = b"name: a\nbase: base.yaml\nloss: {name: dice, smooth: 1e-3}\nseeds: [0, 1]\n"
    base = b"data: {source: brats-h5, root: x}\ntrain: {epochs: 2}\n"
    overrides = b"optim.lr=1e-3\ndata.image_size=64\nmodel={name: unet, base_channels: 4}"
    return [NUL.join((first, base, overrides)), *(NUL.join((file, base)) for file in shipped)]


def _slice(**options: object) -> bytes:
    stream = np.random.default_rng(0)
    held = io.BytesIO()
    with h5py.File(held, "w", libver=options.pop("libver", "earliest")) as file:
        file.create_dataset("image", data=stream.normal(size=(SIDE, SIDE, 4)), **options)
        file.create_dataset("mask", data=np.ones((SIDE, SIDE, 3), np.uint8), **options)
    return held.getvalue()


@cache
def h5_files() -> list[bytes]:
    gzipped = {"chunks": (8, 8, 1), "compression": "gzip"}
    return [
        _slice(),
        _slice(**gzipped),
        _slice(**gzipped, shuffle=True, fletcher32=True, libver="latest"),
        _slice(chunks=(8, 8, 1), compression="lzf"),
    ]


@cache
def nifti_files() -> list[bytes]:
    """The first byte says what follows: 0 a plain file, 1 one to be compressed, 2 a compressed."""
    values = np.arange(8 * 7 * 5, dtype=np.int16).reshape(8, 7, 5)
    files = []
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        image = kind(values, np.diag([-1, -1, 1, 1]))
        image.header.set_slope_inter(2.0, -1.0)
        files.append(image.to_bytes())
    extended = nib.Nifti1Image(values.astype(np.float32), np.eye(4))
    extended.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"hello"))
    swapped = nib.Nifti1Image(values, np.eye(4), nib.Nifti1Header(endianness=">"))
    files += [extended.to_bytes(), swapped.to_bytes()]
    return [
        prefix + body
        for file in files
        for prefix, body in ((b"\0", file), (b"\1", file), (b"\2", gzip.compress(file)))
    ]


@cache
def tiff_files() -> list[bytes]:
    colour = Image.fromarray(np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3))
    grey = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE))
    files = []
    for image, options in (
        (colour, {}),
        (colour, {"compression": "tiff_lzw"}),
        (colour, {"compression": "tiff_adobe_deflate"}),
        (colour, {"compression": "jpeg"}),
        (colour, {"compression": "packbits"}),
        (grey, {"save_all": True, "append_images": [grey, grey]}),
        (grey.convert("F"), {"big_tiff": True}),
    ):
        held = io.BytesIO()
        image.save(held, "TIFF", **options)
        files.append(held.getvalue())
    return files


def name_mappings() -> list[bytes]:
    return [
        b"Grade,BraTS_2017_subject_ID,TCGA_TCIA_subject_ID,BraTS_2020_subject_ID\r\n"
        b"HGG,Brats17_CBICA_AAB_1,TCGA-CS-4941,BraTS20_Training_001\r\n"
        b"LGG,NA,NA,BraTS20_Training_002\r\n",
    ]


def listings() -> list[bytes]:
    return [
        b"slice_path,target,volume,slice\n/content/data/volume_1_slice_0.h5,0,1,0\n"
        b'"C:\\data\\volume_1_slice_1.h5",1,1,1\n',
    ]


def grade_tables() -> list[bytes]:
    return [b"Patient,neoplasm_histologic_grade,age\nTCGA_CS_4941,1,40\nTCGA_HT_7473,2,\n"]


@cache
def score_tables() -> list[bytes]:
    from seglab.evaluation.metrics import score_patient
    from seglab.evaluation.scores import write_csv

    masks = np.random.default_rng(0).random((2, 3, 5, 5)) < 0.5
    scores = [score_patient(name, *masks, (1.0, 1.0, 1.0), True) for name in ("a", 'b,"c"')]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patients_val.csv"
        write_csv(path, scores)
        return [path.read_bytes()]


@cache
def split_files() -> list[bytes]:
    from seglab.data.splits import Split, save_split

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split.json"
        save_split(Split(("a", "b"), ("c",), ()), path)
        return [path.read_bytes()]


@cache
def cache_files() -> dict[str, bytes]:
    """Every file of a cache of two patients, at half the native scale."""
    from seglab.data.cache import CacheSettings, prepare
    from seglab.data.sources import open_source

    stream = np.random.default_rng(0)
    settings = CacheSettings(32, "brain", "zscore", "slice", 0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        root.mkdir()
        for volume, index in ((1, 0), (1, 1), (2, 0)):
            image = np.zeros((64, 60, 4))
            image[10:50, 10:50] = stream.normal(100, 10, (40, 40, 4))
            mask = np.zeros((64, 60, 3), np.uint8)
            mask[20:30, 20 : 30 + index] = 1
            with h5py.File(root / f"volume_{volume}_slice_{index}.h5", "w") as file:
                file["image"], file["mask"] = image, mask
        made, _ = prepare(open_source("brats-h5", root), settings, Path(folder), workers=1)
        return {path.name: path.read_bytes() for path in made.path.iterdir() if path.is_file()}


def cache_indices() -> list[bytes]:
    return [cache_files()["index.json"]]

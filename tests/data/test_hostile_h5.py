"""HDF5 files made to harm whoever opens them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z

from seglab.core.errors import UserError
from seglab.data.scans import find_scans
from seglab.data.sources import open_source
from seglab.data.sources.hdf5 import SPACING
from tests.fuzz.memory import growth

SIDE = 16
SHAPE = (SIDE, SIDE, 4)
BOMB_BYTES = 300 << 20
LARGEST_GROWTH = 100 << 20

Spoil = Callable[[h5py.File], None]


def slice_file(folder: Path, spoil: Spoil) -> Path:
    """A sound slice but for its image, which ``spoil`` puts in."""
    path = folder / "volume_1_slice_0.h5"
    with h5py.File(path, "w") as file:
        file["mask"] = np.zeros((SIDE, SIDE, 3), np.uint8)
        spoil(file)
    return path


def deflated_zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(count >> 20)) + packer.flush()


def _bomb(file: h5py.File) -> None:
    """A chunk of 512 bytes that inflates to 300 MiB."""
    image = file.create_dataset("image", SHAPE, "f8", chunks=(8, 8, 1), compression="gzip")
    image.id.write_direct_chunk((0, 0, 0), deflated_zeros(BOMB_BYTES))


def _filtered(*filters: int) -> Spoil:
    def put(file: h5py.File) -> None:
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_chunk((8, 8, 1))
        for code in filters:
            if code == h5z.FILTER_DEFLATE:
                plan.set_deflate(1)
            else:
                plan.set_filter(code, h5z.FLAG_OPTIONAL, ())
        h5d.create(file.id, b"image", h5t.IEEE_F64LE, h5s.create_simple(SHAPE), dcpl=plan)

    return put


def _of(dtype: object) -> Spoil:
    return lambda file: file.create_dataset("image", SHAPE, dtype)


def _loop(file: h5py.File) -> None:
    file["image"] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink("/image")


def _link_to_pipe(file: h5py.File) -> None:
    pipe = Path(file.filename).parent / "pipe.h5"
    os.mkfifo(pipe)
    file["image"] = h5py.ExternalLink(pipe.name, "/image")


def _crowd(file: h5py.File) -> None:
    file.create_dataset("image", (1024, 1024, 4), "u1", chunks=(1, 1, 1))


def _planes(file: h5py.File) -> None:
    """A mask that takes a gigabyte, of which not a byte is stored."""
    file["image"] = np.zeros(SHAPE)
    del file["mask"]
    file.create_dataset("mask", (SIDE, SIDE, 1000), "f8", chunks=True)


def _spaced(values: object) -> Spoil:
    def put(file: h5py.File) -> None:
        file.create_dataset("image", data=np.ones(SHAPE)).attrs[SPACING] = values

    return put


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "soft link loop": (_loop, "link to elsewhere"),
    "external link to a pipe": (_link_to_pipe, "link to elsewhere"),
    "group": (lambda file: file.create_group("image"), "not a dataset"),
    "stored type": (lambda file: file.__setitem__("image", np.dtype("f8")), "not a dataset"),
    "texts of any length": (_of(h5py.string_dtype()), "not numbers"),
    "lists of any length": (_of(h5py.vlen_dtype(np.float64)), "not numbers"),
    "references": (_of(h5py.ref_dtype), "not numbers"),
    "regions": (_of(h5py.regionref_dtype), "not numbers"),
    "compound": (_of(np.dtype([("a", "f8"), ("b", "i4")])), "not numbers"),
    "arrays": (_of(np.dtype(("f8", (3,)))), "not numbers"),
    "complex": (_of(np.complex64), "not numbers"),
    "nothing": (lambda file: file.create_dataset("image", data=h5py.Empty("f8")), "the shape None"),
    "absent filter": (_filtered(32015), "filter 32015"),
    "old filter": (_filtered(h5z.FILTER_NBIT), "filter 5"),
    "deflated twice": (_filtered(h5z.FILTER_DEFLATE, h5z.FILTER_DEFLATE), "each once"),
    "four million chunks": (_crowd, "declares 4194304 chunks"),
    "a thousand planes": (_planes, "1000 mask planes; expected 3"),
    "a spacing of words": (_spaced(["a", "b", "c"]), "could not convert"),
    "a spacing of a million": (_spaced(np.ones(7000)), "three lengths"),
    "a spacing of nothing": (_spaced([1.0, 0.0, 1.0]), "three lengths"),
    "a spacing without end": (_spaced([1.0, np.inf, 1.0]), "three lengths"),
    "bomb": (_bomb, "holds more than it declares"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused_by_name_and_costs_little(tmp_path: Path, kind: str) -> None:
    spoil, reason = HOSTILE[kind]
    path = slice_file(tmp_path, spoil)
    source = open_source("brats-h5", tmp_path)
    (patient,) = source.patients()

    def read() -> None:
        with pytest.raises(UserError, match=reason) as refusal:
            source.read(patient)
        assert str(path) in str(refusal.value)
        if not kind.startswith("a spacing"):  # of which the check of channels needs nothing
            with pytest.raises(UserError, match=reason):
                source.read_channels(path)

    assert growth(read) < LARGEST_GROWTH


@pytest.mark.parametrize("kind", sorted(HOSTILE.keys() - {"a thousand planes"}))
def test_prediction_refuses_it_too(tmp_path: Path, kind: str) -> None:
    spoil, reason = HOSTILE[kind]
    scans, _ = find_scans([slice_file(tmp_path, spoil)])
    with pytest.raises(UserError, match=reason):
        scans[0].read()


def test_large_chunks_that_hold_what_they_declare_are_read(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    image = stream.normal(size=(240, 240, 4))

    def put(file: h5py.File) -> None:
        file.create_dataset("image", data=image, chunks=image.shape, compression="gzip")
        del file["mask"]
        file["mask"] = np.ones((240, 240, 3), np.uint8)

    path = slice_file(tmp_path, put)
    read, _ = open_source("brats-h5", tmp_path).read_channels(path)
    np.testing.assert_array_equal(read, np.moveaxis(image, -1, 0).astype(np.float32))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "volume_1_slice_0.h5")
    source = open_source("brats-h5", tmp_path)
    with pytest.raises(UserError, match="is not a file"):
        source.read(source.patients()[0])

"""Planes put together from chunks are what HDF5 itself reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from seglab.data.sources.planes import read_planes

VALUES = np.random.default_rng(0).integers(0, 3, (13, 9, 3))
STORED: dict[str, dict[str, Any]] = {
    "as the Kaggle set": {"chunks": (4, 4, 2), "compression": "gzip"},
    "one chunk": {"chunks": (13, 9, 3), "compression": "gzip", "compression_opts": 9},
    "not deflated": {"chunks": (4, 4, 2)},
    "in one piece": {},
    "shuffled": {"chunks": (4, 4, 2), "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": (4, 4, 2), "compression": "lzf"},
    "with checksums": {"chunks": (4, 4, 2), "compression": "gzip", "fletcher32": True},
}


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<f8", "bool"])
@pytest.mark.parametrize("way", STORED)
def test_they_are_what_hdf5_reads(tmp_path: Path, way: str, dtype: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=VALUES.astype(dtype), **STORED[way])
        for first, count in ((0, 3), (1, 1), (1, 2), (2, 1)):
            planes = read_planes(dataset, first, count)
            assert planes.dtype == dataset.dtype
            expected = np.moveaxis(dataset[..., first : first + count], -1, 0)
            np.testing.assert_array_equal(planes, expected)


def test_a_chunk_that_was_never_written_has_the_fill_value(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset(
            "x", (8, 8, 1), "u1", chunks=(4, 4, 1), compression="gzip", fillvalue=7
        )
        dataset[:4] = 1
        assert sorted(np.unique(read_planes(dataset, 0, 1)).tolist()) == [1, 7]


def test_a_chunk_stored_without_its_filter_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (4, 4, 1), "u1", chunks=(4, 4, 1), compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), bytes(range(16)), filter_mask=1)
    with h5py.File(tmp_path / "x.h5") as file:
        dataset = file["x"]
        np.testing.assert_array_equal(read_planes(dataset, 0, 1).ravel(), np.arange(16))


@pytest.mark.parametrize("stored", [b"", b"junk", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_a_damaged_chunk_is_an_error(tmp_path: Path, stored: bytes) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (4, 4, 1), "u1", chunks=(4, 4, 1), compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), stored or b"\0")
        with pytest.raises(OSError, match="a chunk"):
            read_planes(dataset, 0, 1)

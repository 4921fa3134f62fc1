"""All planes of a checked HDF5 dataset (H, W, C), its chunks inflated here.

HDF5 moves a chunk of two planes into place value by value, which takes as long as
inflating it. Chunks that are deflated and nothing else are read as they are stored;
whatever is stored in another way is left to HDF5.
"""

from __future__ import annotations

import zlib
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import h5py

Shape = tuple[int, ...]


def read_planes(dataset: h5py.Dataset) -> NDArray[Any]:
    """Read all planes: (C, H, W), in the file's type.

    Args:
        dataset: (H, W, C), as ``numeric_dataset`` returns it.

    Raises:
        OSError: a chunk is damaged.
    """
    chunk = _deflated_chunk(dataset)
    planes = None if chunk is None else _read_chunks(dataset, chunk)
    return np.moveaxis(dataset[...], -1, 0) if planes is None else planes


def _deflated_chunk(dataset: h5py.Dataset) -> Shape | None:
    """Shape of the chunks if all are in the file, deflated, of values as NumPy keeps them."""
    from h5py import h5d, h5t, h5z

    plan, stored = dataset.id.get_create_plist(), dataset.id
    if plan.get_layout() != h5d.CHUNKED or plan.get_nfilters() != 1:
        return None
    if plan.get_filter(0)[0] != h5z.FILTER_DEFLATE:
        return None
    chunk: Shape = plan.get_chunk()
    there = stored.get_num_chunks() == np.prod(_grid(stored.shape, chunk))
    plain = stored.get_type().equal(h5t.py_create(stored.dtype, logical=True))
    return chunk if there and plain else None


def _read_chunks(dataset: h5py.Dataset, chunk: Shape) -> NDArray[Any] | None:
    """Put the planes together from their chunks; None where one of them is not deflated."""
    stored, dtype = dataset.id, dataset.id.dtype
    shape, (rows, columns, depth) = stored.shape, chunk
    out = np.zeros(shape, dtype)
    zeros, deflated_zeros = bytes(rows * columns * depth * dtype.itemsize), None
    for y, x, z in product(*map(range, (0, 0, 0), shape, chunk)):
        left_out, packed = stored.read_direct_chunk((y, x, z))
        if left_out:
            return None
        if packed == deflated_zeros:  # as most chunks of a mask are
            continue
        values = _inflate(packed, len(zeros))
        if values == zeros:
            deflated_zeros = packed
            continue
        target = out[y : y + rows, x : x + columns, z : z + depth]
        height, width, count = target.shape
        target[...] = np.frombuffer(values, dtype).reshape(chunk)[:height, :width, :count]
    return np.moveaxis(out, -1, 0)


def _grid(shape: Shape, chunk: Shape) -> list[int]:
    return [-(-side // step) for side, step in zip(shape, chunk, strict=True)]


def _inflate(packed: bytes, size: int) -> bytes:
    """Inflate to ``size`` bytes, and never more."""
    try:
        values = zlib.decompressobj().decompress(packed, size)
    except zlib.error as error:
        raise OSError(f"a chunk is damaged: {error}") from error
    if len(values) != size:
        raise OSError(f"a chunk holds {len(values)} bytes of {size}")
    return values

"""Planes of a checked HDF5 dataset (H, W, C), its chunks inflated here.

HDF5 moves a chunk of two planes into place value by value, which takes longer than
inflating it, and inflates with zlib. Chunks that are deflated and nothing else are read
as they are stored; whatever is stored in another way is left to HDF5.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.data.sources.inflate import inflate

if TYPE_CHECKING:
    import h5py

Shape = tuple[int, ...]


def read_planes(dataset: h5py.Dataset, first: int, count: int) -> NDArray[Any]:
    """Read planes ``first`` to ``first + count - 1``: (count, H, W), in the file's type.

    Args:
        dataset: (H, W, C), as ``numeric_dataset`` returns it.
        first: plane to begin with.
        count: planes, at least one.

    Raises:
        OSError: a chunk is damaged.
    """
    chunk = _deflated_chunk(dataset)
    planes = None if chunk is None else _read_chunks(dataset, chunk, first, count)
    if planes is None:
        planes = dataset[..., first : first + count]
    return np.moveaxis(planes, -1, 0)


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


def _read_chunks(
    dataset: h5py.Dataset, chunk: Shape, first: int, count: int
) -> NDArray[Any] | None:
    """Put (H, W, count) together from its chunks; None where one of them is not deflated."""
    stored, dtype = dataset.id, dataset.id.dtype
    rows, columns, depth = chunk
    out = np.zeros((*stored.shape[:2], count), dtype)
    zeros, deflated_zeros = bytes(rows * columns * depth * dtype.itemsize), None
    layers = range(first // depth * depth, first + count, depth)
    for y, x, z in product(*map(range, (0, 0), out.shape, chunk), layers):
        left_out, packed = stored.read_direct_chunk((y, x, z))
        if left_out:
            return None
        if packed == deflated_zeros:  # as most chunks of a mask are
            continue
        values = inflate(packed, len(zeros))
        if values == zeros:
            deflated_zeros = packed
            continue
        begin, end = max(first, z), min(first + count, z + depth)
        target = out[y : y + rows, x : x + columns, begin - first : end - first]
        inside = np.frombuffer(values, dtype).reshape(chunk)[..., begin - z : end - z]
        target[...] = inside[: target.shape[0], : target.shape[1]]
    return out


def _grid(shape: Shape, chunk: Shape) -> list[int]:
    return [-(-side // step) for side, step in zip(shape, chunk, strict=True)]

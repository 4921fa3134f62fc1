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
        planes = np.moveaxis(dataset[..., first : first + count], -1, 0)
    return planes


def _deflated_chunk(dataset: h5py.Dataset) -> Shape | None:
    """Shape of the chunks if they are deflated, of values as NumPy keeps them."""
    from h5py import h5d, h5t, h5z

    plan, stored = dataset.id.get_create_plist(), dataset.id
    if plan.get_layout() != h5d.CHUNKED or plan.get_nfilters() != 1:
        return None
    if plan.get_filter(0)[0] != h5z.FILTER_DEFLATE:
        return None
    chunk: Shape = plan.get_chunk()
    return chunk if stored.get_type().equal(h5t.py_create(dataset.dtype, logical=True)) else None


def _read_chunks(
    dataset: h5py.Dataset, chunk: Shape, first: int, count: int
) -> NDArray[Any] | None:
    """Put (count, H, W) together from its chunks; None where one is not deflated or not there."""
    stored, dtype = dataset.id, dataset.dtype
    rows, columns, depth = chunk
    height, width = dataset.shape[:2]
    out = np.zeros((count, height, width), dtype)
    zeros, deflated_zeros = bytes(rows * columns * depth * dtype.itemsize), None
    for z in range(first // depth * depth, first + count, depth):
        begin, end = max(first, z), min(first + count, z + depth)
        for y, x in product(range(0, height, rows), range(0, width, columns)):
            try:
                left_out, packed = stored.read_direct_chunk((y, x, z))
            except (OSError, RuntimeError):  # never written, or out of reach: HDF5 tells
                return None
            if left_out:
                return None
            if packed == deflated_zeros:  # as most chunks of a mask are
                continue
            values = inflate(packed, len(zeros))
            if values == zeros:
                deflated_zeros = packed
                continue
            target = out[begin - first : end - first, y : y + rows, x : x + columns]
            inside = np.frombuffer(values, dtype).reshape(chunk)[..., begin - z : end - z]
            target[...] = inside.transpose(2, 0, 1)[:, : target.shape[1], : target.shape[2]]
    return out

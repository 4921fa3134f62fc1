"""Opening datasets of an HDF5 file from a stranger.

A dataset may point to other files of this machine (external links, virtual
datasets, external storage) or declare terabytes. Both are refused before any
byte of it is read.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.core.errors import UserError
from seglab.data.sources.files import MAX_DEFLATE_RATIO, check_file, check_shape, unreadable

if TYPE_CHECKING:
    import h5py

MAX_CHUNK_BYTES = 2**26
"""A chunk is decompressed whole, however little of it is asked for."""
MAX_CHUNKS = 2**16
"""HDF5 visits every chunk that is declared, stored or not."""
MAX_INFLATED_BYTES = 2**28
"""HDF5 inflates all that a chunk holds, whatever size it declares."""


SPACING = "spacing_mm"
"""Attribute of a data set: (slice, row, column)."""
LZF = 32000
"""Number of the filter that h5py brings."""


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open ``path``, and turn whatever HDF5 raises inside the block into one line.

    Raises:
        UserError: the file is absent, truncated, corrupt or not HDF5.
    """
    import h5py

    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise unreadable(path, "HDF5", error) from error


def numeric_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return the (H, W, C) dataset ``name`` once it is safe to read.

    Raises:
        UserError: it is absent, lies outside this file, is not numeric, or its
            declared shape or chunks are beyond reason.
    """
    from h5py import Dataset, h5d, h5l

    links, key = file.id.links, name.encode()
    # Asking the group itself would already open an external file, and takes four times as long.
    if not links.exists(key):
        raise UserError(f"{path} has no dataset '{name}'; it has: {', '.join(file) or 'nothing'}")
    if links.get_info(key).type != h5l.TYPE_HARD:
        raise UserError(f"{path}: '{name}' is a link to elsewhere, which is not followed")
    try:
        dataset = Dataset(h5d.open(file.id, key), readonly=True)
    except KeyError:
        if file.get(name, getclass=True) is Dataset:
            raise
        raise UserError(f"{path}: '{name}' is not a dataset") from None
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == h5d.VIRTUAL or plan.get_external_count():
        raise UserError(f"{path}: '{name}' keeps its values in another file, which is not followed")
    shape = _checked_shape(dataset, name, path)
    if plan.get_layout() == h5d.CHUNKED:
        _check_chunks(dataset, shape, plan, name, path)
    return dataset


def stated_spacing(dataset: h5py.Dataset, path: Path) -> tuple[float, float, float] | None:
    """Return the spacing that a data set states in its attribute; None where it states none.

    Raises:
        UserError: the attribute is not three lengths above 0.
    """
    if SPACING not in dataset.attrs:
        return None
    attribute = dataset.attrs.get_id(SPACING)  # nothing is read yet, however large it is
    values = dataset.attrs[SPACING] if attribute.shape == (3,) else ()
    numbers = [float(value) for value in values]
    if len(numbers) != 3 or not all(0 < number < math.inf for number in numbers):
        raise UserError(f"{path}: the attribute {SPACING} is not three lengths in millimetres")
    return numbers[0], numbers[1], numbers[2]


def _checked_shape(dataset: Any, name: str, path: Path) -> tuple[int, ...]:
    dtype, shape = dataset.dtype, dataset.shape
    if dtype.kind not in "biuf":
        raise UserError(f"{path}: '{name}' holds {dtype}, not numbers")
    if shape is None or len(shape) != 3:
        raise UserError(
            f"{path}: '{name}' has the shape {shape}; expected (height, width, channels)"
        )
    check_shape(path, (shape[2], *shape[:2]))
    return tuple(shape)


def _check_chunks(dataset: Any, shape: tuple[int, ...], plan: Any, name: str, path: Path) -> None:
    from h5py import h5z

    chunk = plan.get_chunk()
    chunk_bytes = math.prod(chunk) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise UserError(f"{path}: '{name}' declares chunks of {chunk_bytes} bytes")
    count = math.prod(-(-n // step) for n, step in zip(shape, chunk, strict=True))
    if count > MAX_CHUNKS:
        raise UserError(f"{path}: '{name}' declares {count} chunks; at most {MAX_CHUNKS}")
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    _check_filters(filters, name, path)
    if h5z.FILTER_DEFLATE in filters:
        _check_inflation(dataset, chunk_bytes, name, path)


def _check_filters(filters: list[int], name: str, path: Path) -> None:
    """Only what compresses data sets everywhere, each once: deflated twice grows a millionfold."""
    from h5py import h5z

    known = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, LZF}
    odd = [code for code in filters if code not in known or filters.count(code) > 1]
    if odd:
        raise UserError(
            f"{path}: '{name}' is stored through HDF5 filter {odd[0]} (or twice through it); "
            "read are gzip, lzf, shuffle and fletcher32, each once"
        )


def _check_inflation(dataset: Any, chunk_bytes: int, name: str, path: Path) -> None:
    """Inflate what might be a bomb up to the size that its chunk declares."""
    large: list[tuple[int, ...]] = []

    def look(chunk: Any) -> None:
        if chunk.size * MAX_DEFLATE_RATIO > MAX_INFLATED_BYTES:
            large.append(chunk.chunk_offset)

    if dataset.id.get_storage_size() * MAX_DEFLATE_RATIO > MAX_INFLATED_BYTES:
        dataset.id.chunk_iter(look)
    for offset in large:
        _, stored = dataset.id.read_direct_chunk(offset)
        stream = zlib.decompressobj()
        with suppress(zlib.error):  # HDF5 will say so
            stream.decompress(stored, chunk_bytes + 1)
        if stream.unconsumed_tail:
            raise UserError(f"{path}: '{name}' has a chunk that holds more than it declares")

"""Opening datasets of an HDF5 file from a stranger.

A dataset may point to other files of this machine (external links, virtual
datasets, external storage) or declare terabytes. Both are refused before any
byte of it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.core.errors import UserError
from seglab.data.sources.files import check_shape

if TYPE_CHECKING:
    import h5py

MAX_CHUNK_BYTES = 2**26
"""A chunk is decompressed whole, however little of it is asked for."""


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open ``path``, and turn whatever HDF5 raises inside the block into one line.

    Raises:
        UserError: the file is absent, truncated, corrupt or not HDF5.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as HDF5 (truncated download?): {reason}") from error


def numeric_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return the (H, W, C) dataset ``name`` once it is safe to read.

    Raises:
        UserError: it is absent, lies outside this file, is not numeric, or its
            declared shape or chunks are beyond reason.
    """
    from h5py import Dataset, h5l

    links = file.id.links  # Asking the group itself would already open an external file.
    if not links.exists(name.encode()):
        raise UserError(f"{path} has no dataset '{name}'; it has: {', '.join(file) or 'nothing'}")
    if links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise UserError(f"{path}: '{name}' is a link to elsewhere, which is not followed")
    dataset = file[name]
    if not isinstance(dataset, Dataset):
        raise UserError(f"{path}: '{name}' is not a dataset")
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: '{name}' keeps its values in another file, which is not followed")
    _check_layout(dataset, name, path)
    return dataset


def _check_layout(dataset: Any, name: str, path: Path) -> None:
    if dataset.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{name}' holds {dataset.dtype}, not numbers")
    if len(dataset.shape) != 3:
        raise UserError(
            f"{path}: '{name}' has the shape {dataset.shape}; expected (height, width, channels)"
        )
    check_shape(path, (dataset.shape[2], *dataset.shape[:2]))
    chunk_bytes = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise UserError(f"{path}: '{name}' declares chunks of {chunk_bytes} bytes")

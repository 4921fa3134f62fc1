"""Reading a 3-D NIfTI file from a stranger: the header is judged before memory is taken."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.sources.files import check_shape

MAX_DEFLATE_RATIO = 1032
"""zlib cannot shrink more than this, so a compressed file bounds what it can hold."""
MAX_OFFSET_BYTES = 2**24


def read_nifti(path: Path) -> tuple[NDArray[Any], tuple[float, float, float] | None]:
    """Read a volume in file units (header scaling applied).

    Returns:
        array (S, H, W), where slice z is ``array[:, :, z]`` of the file, float32 or, where
        the file needs no scaling, its own integer type; spacing in mm (slice, row,
        column), or None where the header states none that is positive.

    Raises:
        UserError: absent, unreadable, not 3-D, not numeric, or a header that declares
            more than is allowed or than the file can hold.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.loadsave import load
    from nibabel.spatialimages import HeaderDataError

    try:
        image: Any = load(path)
        _check_header(path, image)
        values = np.asarray(image.dataobj)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (
        OSError, EOFError, ValueError, zlib.error, MemoryError, OverflowError,
        ImageFileError, HeaderDataError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as NIfTI (truncated?): {reason}") from error
    if values.dtype.kind == "f":
        values = values.astype(np.float32, copy=False)
    return np.moveaxis(values, -1, 0), _spacing_mm(image)


def _check_header(path: Path, image: Any) -> None:
    shape = tuple(int(size) for size in image.shape)
    if len(shape) != 3:
        raise UserError(f"{path} is {len(shape)}-D, shape {shape}; expected 3-D, one modality")
    check_shape(path, (shape[2], shape[0], shape[1]))
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise UserError(f"{path} holds {dtype}, not plain numbers")
    offset = int(image.dataobj.offset)
    needed = int(np.prod(shape)) * dtype.itemsize + offset
    ratio = MAX_DEFLATE_RATIO if path.suffix == ".gz" else 1
    if offset > MAX_OFFSET_BYTES or needed > path.stat().st_size * ratio:
        raise UserError(
            f"{path} declares {needed} bytes of data, which {path.stat().st_size} bytes "
            "on disk cannot hold: truncated, or a wrong header"
        )


def _spacing_mm(image: Any) -> tuple[float, float, float] | None:
    rows, columns, slices = (float(step) for step in image.header.get_zooms()[:3])
    spacing = (slices, rows, columns)
    return spacing if all(np.isfinite(step) and step > 0 for step in spacing) else None

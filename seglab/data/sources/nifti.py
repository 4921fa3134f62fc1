"""Reading a 3-D NIfTI file from a stranger: the header is judged before memory is taken."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.sources.files import MAX_DEFLATE_RATIO, check_file, check_shape, unreadable
from seglab.data.sources.inflate import DAMAGED, MAX_TRAILER_BYTES, inflate_gzip, open_gzip

MAX_OFFSET_BYTES = 2**24
"""Between the header and the data lie extensions, which are read whole."""
_HEADERS = {348: ("f", 108), 540: ("q", 168)}
"""Size of a header (NIfTI-1, NIfTI-2) → type and place of the offset of the data."""
_MOVED_AS = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}
"""Bytes of a value → a type of that size which OpenCV knows."""


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

    check_file(path)
    try:
        _check_extensions(path)
        image: Any = load(path)
        _check_header(path, image)
        values = _read_values(path, image.dataobj)
    except (
        OSError, EOFError, ValueError, MemoryError, OverflowError,
        ImageFileError, HeaderDataError, *DAMAGED,
    ) as error:  # fmt: skip
        raise unreadable(path, "NIfTI", error) from error
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # ``finite_image`` tells
            values = values.astype(np.float32, copy=False)
    return _slices_first(values), _spacing_mm(image)


def is_gzipped(path: Path) -> bool:
    """Whether the name says so, as nibabel takes it: in capitals too."""
    return path.suffix.lower() == ".gz"


def _read_values(path: Path, proxy: Any) -> NDArray[Any]:
    """Read and scale what nibabel's proxy stands for, by our own way of inflating."""
    if not is_gzipped(path):
        return np.asarray(proxy)
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.volumeutils import apply_read_scaling

    size = math.prod(proxy.shape) * proxy.dtype.itemsize
    content = inflate_gzip(path, proxy.offset + size)
    if content is not None:
        stored = np.ndarray(proxy.shape, proxy.dtype, content, proxy.offset, order="F")
        return np.asarray(apply_read_scaling(stored, proxy.slope, proxy.inter))
    about = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    with open_gzip(path) as file:
        values = np.asarray(ArrayProxy(file, about))
        file.read(MAX_TRAILER_BYTES)  # at the end of the stream its checksum is compared
    return values


def _slices_first(values: NDArray[Any]) -> NDArray[Any]:
    """(H, W, S) as (S, H, W); as the file's first axis runs fastest, every slice is transposed.

    OpenCV moves blocks of pixels at once, whatever they mean; NumPy moves them one by one.
    """
    if not values.flags.f_contiguous or values.itemsize not in _MOVED_AS:
        return np.moveaxis(values, -1, 0)
    stack = values.T.view(_MOVED_AS[values.itemsize])
    out = np.empty((len(stack), *values.shape[:2]), stack.dtype)
    for target, source in zip(out, stack, strict=True):
        cv2.transpose(source, dst=target)
    return out.view(values.dtype)


def _check_extensions(path: Path) -> None:
    """Refuse header extensions of an absurd size, which nibabel would read as they claim.

    Of a header that is not NIfTI nibabel says so itself.
    """
    with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
        start = file.read(4)
        order = next((o for o in "<>" if start in _starts(o)), None)
        if order is None:
            return
        size = struct.unpack(f"{order}i", start)[0]
        kind, place = _HEADERS[size]
        header = start + file.read(size + 4 - len(start))  # the last four tell of extensions
        if len(header) < size + 4 or header[size] == 0:
            return
        left = struct.unpack_from(order + kind, header, place)[0] - len(header)
        while 16 <= left <= MAX_OFFSET_BYTES:
            claimed = struct.unpack(f"{order}i", file.read(4) or bytes(4))[0]
            if not 8 < claimed <= left:
                raise UserError(f"{path} has a header extension of {claimed} bytes in {left}")
            file.read(claimed - 4)
            left -= claimed
    if not left <= MAX_OFFSET_BYTES:
        raise UserError(f"{path} declares {left} bytes between header and data")


def _starts(order: str) -> set[bytes]:
    return {struct.pack(f"{order}i", size) for size in _HEADERS}


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
    ratio = MAX_DEFLATE_RATIO if is_gzipped(path) else 1
    if offset > MAX_OFFSET_BYTES or needed > path.stat().st_size * ratio:
        raise UserError(
            f"{path} declares {needed} bytes of data, which {path.stat().st_size} bytes "
            "on disk cannot hold: truncated, or a wrong header"
        )


def _spacing_mm(image: Any) -> tuple[float, float, float] | None:
    rows, columns, slices = (float(step) for step in image.header.get_zooms()[:3])
    spacing = (slices, rows, columns)
    return spacing if all(np.isfinite(step) and step > 0 for step in spacing) else None

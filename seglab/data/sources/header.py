"""The one reading of a NIfTI header: grid, orientation, spacing, and what to tell of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.files import (
    MAX_DEFLATE_RATIO,
    check_same_shape,
    check_shape,
    plausible_spacing,
)

AXES = ("L", "P", "S")
"""Where the axes of a BraTS array point to: left, posterior, superior."""
FURTHEST = 0.5
"""Voxels by which the corners of two files of one patient may lie apart."""
SAME = 0.02
"""Relative difference of two statements of one spacing."""
_TO_MM = {1: 1000.0, 3: 0.001}
"""Code of a unit (metre, micrometre) → millimetres; all else is taken for millimetres."""
_AS_STORED = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])

Array = NDArray[Any]


@dataclass(frozen=True)
class Header:
    """How a volume lies, as stored and turned to ``AXES``."""

    path: Path
    shape: tuple[int, ...]
    """(x, y, z) of the file."""
    turn: Array
    """Transform of nibabel to ``AXES``; as stored where the header states no orientation."""
    back: Array
    affine: Array | None
    """(4, 4) from (row, column, slice) of the turned volume to mm; None where not stated."""
    spacing_mm: tuple[float, float, float] | None
    """(slice, row, column) of the turned volume."""
    remarks: tuple[str, ...]

    @property
    def grid(self) -> tuple[int, int, int]:
        """(S, H, W) of the turned volume."""
        rows, columns, slices = (self.shape[int(axis)] for axis in np.argsort(self.turn[:, 0]))
        return slices, rows, columns

    def to_lps(self, values: Array) -> Array:
        """(x, y, z) as stored to (S, H, W) as BraTS lies; a view."""
        from nibabel.orientations import apply_orientation

        return np.moveaxis(apply_orientation(values, self.turn), -1, 0)

    def from_lps(self, stack: Array) -> Array:
        """(S, H, W) as BraTS lies to (x, y, z) as stored; a view."""
        from nibabel.orientations import apply_orientation

        return np.asarray(apply_orientation(np.moveaxis(stack, 0, -1), self.back))

    def check_lies_on(self, other: Header) -> None:
        """Refuse a file that does not lie on ``other``.

        Raises:
            UserError: another shape, or corners that the affines put apart.
        """
        check_same_shape(self.path, self.grid, other.grid, other.path.name)
        if self.affine is None or other.affine is None:
            return
        corners = _corners((*self.grid[1:], self.grid[0]))
        apart = np.abs(np.linalg.solve(other.affine, self.affine @ corners) - corners).max()
        if not apart <= FURTHEST:
            raise UserError(
                f"{self.path} lies elsewhere than {other.path.name}: by their affines the corners "
                f"are {apart:.1f} voxels apart, at most {FURTHEST} are allowed"
            )


def read_header(path: Path, image: Any) -> Header:
    """Read how a volume that nibabel has opened lies.

    Raises:
        UserError: not numeric, not a volume, or more declared than is allowed or can be held.
    """
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    _check_declared(path, image)
    shape = tuple(int(size) for size in image.shape[:3])
    to_mm = _TO_MM.get(int(image.header["xyzt_units"]) % 8, 1.0)
    remarks = [f"{path.name} is in units of {to_mm:g} mm: converted"] if to_mm != 1 else []
    if _states_orientation(image):
        here, there = io_orientation(image.affine), axcodes2ornt(AXES)
        turn, back = ornt_transform(here, there), ornt_transform(there, here)
        affine = np.diag([to_mm, to_mm, to_mm, 1]) @ image.affine @ inv_ornt_aff(turn, shape)
        steps = _steps(affine)
        remarks += _disagreements(path, image)
    else:
        turn, back, affine = _AS_STORED, _AS_STORED, None
        steps = to_mm * np.array(image.header.get_zooms()[:3], float)
        remarks.append(f"orientation is not stated in {path.name}: taken as stored")
    spacing_mm, told = plausible_spacing(path, [float(step) for step in np.roll(steps, 1)])
    return Header(path, shape, turn, back, affine, spacing_mm, (*remarks, *told))


def is_gzipped(path: Path) -> bool:
    """Whether the name says so, as nibabel takes it: in capitals too."""
    return path.suffix.lower() == ".gz"


def _check_declared(path: Path, image: Any) -> None:
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 3:
        raise UserError(f"{path} is {len(shape)}-D, shape {shape}; expected a volume")
    check_shape(path, (math.prod(shape[2:]), *shape[:2]))
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise UserError(f"{path} holds {dtype}, not plain numbers")
    needed = math.prod(shape) * dtype.itemsize + int(image.dataobj.offset)
    held = path.stat().st_size
    if needed > held * (MAX_DEFLATE_RATIO if is_gzipped(path) else 1):
        raise UserError(
            f"{path} declares {needed} bytes of data, which {held} bytes on disk cannot hold: "
            "truncated, or a wrong header"
        )


def _states_orientation(image: Any) -> bool:
    from nibabel.orientations import io_orientation

    affine, header = image.affine, image.header
    stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    # The identity is what is written where nobody knew better.
    if not stated or np.array_equal(affine, np.eye(4)) or not np.isfinite(affine).all():
        return False
    if np.linalg.matrix_rank(affine[:3, :3]) < 3:
        return False
    return not np.isnan(io_orientation(affine)).any()


def _disagreements(path: Path, image: Any) -> Iterator[str]:
    """What the header states twice, and differently, in its own units."""
    header = image.header
    used = "sform" if int(header["sform_code"]) > 0 else "qform"
    steps, pixdim = _steps(image.affine), np.array(header.get_zooms()[:3], float)
    if not np.allclose(steps, pixdim, rtol=SAME):
        ours, theirs = (" × ".join(f"{step:g}" for step in each) for each in (steps, pixdim))
        yield f"{path.name}: spacing {ours} by its {used}, {theirs} by pixdim: the {used} is used"
    if used == "sform" and int(header["qform_code"]) > 0:
        lies = (image.affine - header.get_qform()) @ _corners(image.shape[:3])
        apart = float(np.sqrt((lies**2).sum(axis=0)).max())
        if not apart <= FURTHEST * steps.max():
            yield f"{path.name}: its sform and qform lie {apart:.3g} apart: the sform is used"


def _steps(affine: Array) -> Array:
    return np.asarray(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def _corners(shape: tuple[int, ...]) -> Array:
    """(4, 8) homogeneous indices of the corners of an array."""
    ends = np.meshgrid(*((0, side - 1) for side in shape), (1,))
    return np.array(ends).reshape(4, -1)

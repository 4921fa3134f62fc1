"""Finding files and judging what they declare and hold; shared by all sources."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError, first_line

MAX_SIDE_PX = 1024
"""Longest side of a slice that is read: headers can lie, and memory is allocated after them."""
MAX_SLICES = 1024
MAX_VOXELS = 2**27
"""Largest volume that is read: 512 MiB as float32."""
LEAST_MM, MOST_MM = 0.1, 20.0
"""Between two voxels of a scan of a head."""
MAX_DEFLATE_RATIO = 1032
"""zlib cannot shrink more than this, so a compressed file bounds what it can hold."""

Spacing = tuple[float, float, float]
"""Millimetres from voxel to voxel: (slice, row, column)."""


def walk(root: Path) -> Iterator[Path]:
    """Yield the files at and below ``root`` in a fixed order, hidden ones left out.

    Links to folders are followed, each folder once: large sets often lie on another disk.

    Raises:
        UserError: the root is missing or not a folder, or a folder cannot be listed.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        where = "" if root.is_absolute() else f" (it was looked for in {Path.cwd()})"
        raise UserError(f"data root {root} {what}{where}")
    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=_cannot_list, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below[:] = []
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder)
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def _cannot_list(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from error


def check_file(path: Path) -> None:
    """Raise a UserError for what is no regular file: a pipe would be waited for."""
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """Build the error for a file that its library cannot read as ``kind``, such as "TIFF"."""
    if isinstance(error, PermissionError):
        return UserError(f"{path} may not be read by this user: permission denied")
    return UserError(f"{path} cannot be read as {kind} (truncated?): {first_line(error)}")


def same_name(first: Path, second: Path, what: str) -> UserError:
    """Build the error for two files that claim to be the same thing."""
    return UserError(f"{first} and {second} are both {what}: remove one, or narrow data.root")


def check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """Raise a UserError for a declared (…, H, W) that is absurd, before memory is taken."""
    *stack, height, width = shape
    slices = stack[0] if stack else 1
    fits = (
        1 <= slices <= MAX_SLICES
        and all(1 <= side <= MAX_SIDE_PX for side in (height, width))
        and slices * height * width <= MAX_VOXELS
    )
    if not fits:
        limits = f"{MAX_SIDE_PX} pixels a side, {MAX_SLICES} slices, {MAX_VOXELS} voxels"
        raise UserError(f"{path} declares the shape {shape}; allowed are at most {limits}")


def finite_image(path: Path, image: NDArray[Any]) -> NDArray[np.float32]:
    """Convert to float32; raises a UserError where a value is NaN, infinite or beyond that."""
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(image, dtype=np.float32)
    if image.dtype.kind == "f" and not np.isfinite(converted).all():
        bad = int(np.count_nonzero(~np.isfinite(converted)))
        raise UserError(f"{path} holds {bad} image values that are NaN or infinite")
    return converted


def check_same_shape(path: Path, shape: tuple[int, ...], wanted: tuple[int, ...], of: str) -> None:
    """Raise a UserError for what does not have the shape of its image or its volume (``of``)."""
    if shape != wanted:
        raise UserError(f"{path} has the shape {shape}; {of} has {wanted}")


def plausible_spacing(
    path: Path, values: Sequence[float]
) -> tuple[Spacing | None, tuple[str, ...]]:
    """Return (slice, row, column) in mm, or None and why it is not believed."""
    if len(values) == 3 and all(LEAST_MM <= value <= MOST_MM for value in values):
        return (values[0], values[1], values[2]), ()
    words = " × ".join(f"{value:g}" for value in values) or "nothing"
    limits = f"{LEAST_MM:g} to {MOST_MM:g} mm are plausible"
    return None, (f"{path.name} states a spacing of {words} mm; {limits}: volume unknown",)

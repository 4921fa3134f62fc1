"""What a scan is: an image nobody has outlined, read without a truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.sources.files import check_shape

Image = NDArray[np.float32]
Bool = NDArray[np.bool_]

FEWEST_LEVELS = 10
"""An image of so few distinct values, or fewer, is a mask."""
SAMPLES = 200_000


@dataclass(frozen=True)
class Pixels:
    """A scan in memory."""

    image: Image
    """(S, H, W) raw values, finite."""
    slice_indices: NDArray[np.int32]
    """(S,) ascending positions in the stack."""
    stack_size: int
    spacing_mm: tuple[float, float, float] | None
    """(slice, row, column)"""
    remarks: tuple[str, ...] = ()
    """What a reader of the result should know."""


@dataclass(frozen=True)
class Scan(ABC):
    """A scan as found; nothing has been read."""

    name: str
    files: tuple[Path, ...]

    upright: ClassVar[bool]
    """Whether rows run from top to bottom, as in ``Source``."""
    shared_scale: ClassVar[bool]
    """Whether all slices share one intensity scale."""

    @property
    def path(self) -> Path:
        """What to call it: its file, or the first of its slices."""
        return self.files[0]

    @abstractmethod
    def read(self) -> Pixels:
        """Read the image.

        Raises:
            UserError: unreadable, not what its suffix says, or no image; names the file.
        """

    @abstractmethod
    def write(self, mask: Bool, pixels: Pixels, folder: Path) -> Path:
        """Write the mask (S, H, W) of ``read``'s pixels into ``folder``; returns the file."""


def check_image(path: Path, image: Image) -> None:
    """Refuse what is certainly no FLAIR image.

    Raises:
        UserError: every value is the same, or so few differ that it is a mask.
    """
    stride = max(1, image.size // SAMPLES)
    values = np.unique(image.reshape(-1)[::stride])
    if len(values) > FEWEST_LEVELS:
        return
    values = np.unique(image)
    if len(values) == 1:
        raise UserError(f"{path} is empty: every value is {values[0]:g}")
    if len(values) <= FEWEST_LEVELS:
        some = ", ".join(f"{value:g}" for value in values)
        raise UserError(f"{path} holds only the values {some}: a mask, not an image")


def refuse_mixed(files: Sequence[Path], images: Sequence[Image]) -> None:
    """Refuse slices of one scan that differ in shape, or are too many.

    Raises:
        UserError: names the scan and the shapes.
    """
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UserError(f"{files[0].parent}: slices of {files[0].name} differ in shape: {shapes}")
    check_shape(files[0], (len(images), *images[0].shape))


def written(target: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a file beside ``target`` and move it there; returns ``target``.

    Raises:
        UserError: the disk is full or read-only.
    """
    temporary = target.with_name(f".part-{target.name}")
    try:
        write(temporary)
        temporary.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target

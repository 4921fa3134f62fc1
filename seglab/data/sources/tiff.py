"""Opening a TIFF file from a stranger."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.sources.files import check_file, check_shape, unreadable

if TYPE_CHECKING:
    from PIL import Image


@contextmanager
def reading_tiff(path: Path) -> Iterator[Image.Image]:
    """Open ``path``, and turn whatever Pillow raises inside the block into one line.

    Raises:
        UserError: absent, damaged, not TIFF, or larger than is read.
    """
    from PIL import Image

    check_file(path)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["TIFF"]) as image:
            check_shape(path, (getattr(image, "n_frames", 1), image.height, image.width))
            yield image
    except UserError:
        raise
    except Exception as error:  # Pillow names no common class for damaged files
        raise unreadable(path, "TIFF", error) from error


def pixels(image: Any) -> NDArray[Any]:
    """Read the pixels of a page: (H, W), or (H, W, C).

    Raises:
        ValueError: the file has fewer rows than it declares, which Pillow leaves black.
    """
    rows = max((bottom for _, (_, _, _, bottom), *_ in image.tile), default=0)
    if rows < image.height:
        raise ValueError(f"it holds {rows} of {image.height} rows")
    return np.array(image)

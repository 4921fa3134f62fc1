"""The form of a file as it lies on disk: what differs between files is worth knowing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seglab.data.sources.brats_h5 import numeric_dataset, reading


def layout(path: Path) -> str:
    """Types and shapes in a file that has been read without error: ``image float64 240×240×4``.

    Raises:
        UserError: an HDF5 file that has changed since.
    """
    if path.suffix == ".h5":
        with reading(path) as file:
            parts = {name: numeric_dataset(file, name, path) for name in ("image", "mask")}
            return ", ".join(f"{n} {_words(d.dtype, d.shape)}" for n, d in parts.items())
    if path.suffix == ".tif":
        from PIL import Image

        with Image.open(path) as image:
            return _words(image.mode, image.size[::-1])
    return _nifti_layout(path)


def _nifti_layout(path: Path) -> str:
    from nibabel.loadsave import load

    image: Any = load(path)
    words = _words(image.header.get_data_dtype(), image.shape)
    part = "labels" if "seg" in path.name.lower() else "image"
    return f"{part} {words}"


def _words(dtype: object, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'×'.join(map(str, shape))}"

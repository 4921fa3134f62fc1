"""More phantom files than there are phantoms: a few are made, the others are the same again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seglab.data.cache import Cache
from seglab.data.cache.files import INDEX, HashedFile, Json, write_index
from seglab.data.cache.index import IMAGES, MASKS, NATIVE_MASKS, SLICES
from seglab.data.phantom import CONTENT, make_patient, write_nifti

DIFFERENT_VOLUMES = 3
STACK = 155


def repeat_slices(phantoms: Path, root: Path, files: int) -> None:
    """Repeat a phantom set's slice files as further patients, up to at least ``files``."""
    root.mkdir()
    paths = sorted((phantoms / CONTENT).glob("volume_*.h5"))
    patients = max(int(path.name.split("_")[1]) for path in paths)
    for copy in range(-(-files // len(paths))):
        for path in paths:
            _, volume, rest = path.name.split("_", 2)
            _again(path, root / f"volume_{int(volume) + copy * patients}_{rest}")


def write_volumes(root: Path, count: int, size: int) -> None:
    """Write phantoms as BraTS publishes its patients: gzipped int16 volumes."""
    root.mkdir()
    for number in range(1, count + 1):
        name = f"BraTS20_Training_{number:03d}"
        folder = root / name
        like = (number - 1) % DIFFERENT_VOLUMES + 1
        if like == number:
            write_nifti(folder, name, make_patient(0, number, size=size, slices=STACK))
            continue
        folder.mkdir()
        first = root / f"BraTS20_Training_{like:03d}"
        for path in first.iterdir():
            _again(path, folder / path.name.replace(first.name, name))


def _again(path: Path, link: Path) -> None:
    """A hard link takes no disk, and each name is opened and decompressed by itself."""
    try:
        os.link(path, link)
    except OSError:
        shutil.copyfile(path, link)


def repeat_cache(cache: Cache, folder: Path, slices: int) -> Path:
    """Write a cache of ``slices`` slices: whole patients of ``cache``, again and again.

    Returns:
        ``folder``, as ``open_cache`` opens it. The last patient may be cut short.
    """
    folder.mkdir()
    copies = -(-slices // len(cache.images))
    index: Json = json.loads((cache.path / INDEX).read_text(encoding="utf-8"))
    for name in (IMAGES, MASKS, SLICES):
        content = np.fromfile(cache.path / name, np.uint8).reshape(len(cache.images), -1)
        with HashedFile(folder / name) as file:
            for copy in range(copies):
                rows = min(len(cache.images), slices - copy * len(cache.images))
                file.write(content[:rows])
        index["files"][name] = file.entry()
    shutil.copyfile(cache.path / NATIVE_MASKS, folder / NATIVE_MASKS)
    index["shape"][0] = slices
    index["patients"] = list(_repeat_patients(index["patients"], len(cache.images), slices))
    write_index(folder, index)
    return folder


def _repeat_patients(patients: list[Json], rows: int, slices: int) -> Iterator[Json]:
    for copy in range(-(-slices // rows)):
        for patient in patients:
            first = patient["first"] + copy * rows
            count = min(patient["count"], slices - first)
            if count > 0:
                name = f"{patient['patient_id']}-{copy}"
                yield {**patient, "patient_id": name, "first": first, "count": count}

"""More phantom files than there are phantoms: a few are made, the others are the same again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from seglab.data.cache import INDEX, Cache, read_json
from seglab.data.phantom import CONTENT, make_patient, write_nifti
from seglab.data.prepare import publish

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
    """Write a cache of at least ``slices`` slices: all patients of ``cache``, again and again.

    Returns:
        ``folder``, as ``open_cache`` opens it.
    """
    copies = -(-slices // cache.slices)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    index, image = read_json(cache.path / INDEX), read_json(cache.path / f"{cache.reference}.json")
    for name in (*index["files"], *image["files"]):
        once = np.load(cache.path / name, mmap_mode="r")
        shape = (copies * len(once), *once.shape[1:])
        out = np.lib.format.open_memmap(scratch / name, "w+", once.dtype, shape)
        for copy in range(copies):
            out[copy * len(once) : (copy + 1) * len(once)] = once
        out.flush()
    index["patients"] = [
        {**patient, "patient_id": f"{patient['patient_id']}-{copy}"}
        for copy in range(copies)
        for patient in index["patients"]
    ]
    index["remarks"] = {patient["patient_id"]: [] for patient in index["patients"]}
    index = publish(scratch, INDEX, tuple(index["files"]), index)
    about = {"base": index["digest"], "skipped": {}}
    publish(scratch, f"{cache.reference}.json", tuple(image["files"]), about)
    return folder

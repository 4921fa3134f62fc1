"""One process fills a cache while the others wait; what a killed one left is removed."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seglab.core.locks import FileLock

SCRATCH = ".tmp-"
"""Between a cache's name and the number of the process that is writing it."""


@contextmanager
def held(root: Path, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of the cache ``name``; the kernel frees it when the process dies.

    Yields:
        Whether the lock is held; always True with ``wait``.

    Raises:
        OSError: the root cannot be written, or its file system has no locks.
    """
    lock = FileLock(root / f".{name}.lock")
    if wait:
        lock.acquire(wait_s=math.inf)
    is_held = wait or lock.try_acquire()
    try:
        yield is_held
    finally:
        lock.remove()


@contextmanager
def scratch_folder(root: Path, name: str) -> Iterator[Path]:
    """Make the folder in which the cache ``name`` grows; it is gone afterwards, whatever happens.

    The caller holds the lock of ``name``.
    """
    remove_abandoned(root, name)
    folder = root / f"{name}{SCRATCH}{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(root: Path, name: str) -> None:
    """Remove scratch folders whose process was killed: nobody holds their lock.

    The caller holds the lock of ``name``.
    """
    for folder in root.glob(f"*{SCRATCH}*"):
        owner = folder.name.rpartition(SCRATCH)[0]
        if owner == name:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with held(root, owner, wait=False) as abandoned:
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)

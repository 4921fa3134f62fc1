"""What this machine gives to this process: cores, memory, worker processes, locks, a terminal."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from seglab.core.errors import UserError

Item = TypeVar("Item")
Map = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""``map`` of a picklable function over picklable values; results come in order."""
CGROUP = Path("/sys/fs/cgroup")
"""Where the kernel says what a container may use."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names in glibc's ``malloc.h``."""


def available_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may use: of its affinity, and of its container (``docker --cpus=2``)."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no container, or "max": no limit
        return cores
    return max(1, min(cores, math.ceil(share)))


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees; other C libraries are left as they are.

    A training step frees hundreds of megabytes and takes them again. Clearing the pages anew took
    12 % of a step (U-Net of 16 channels, 16 slices of 128²: 0.93 s against 0.82 s).
    """
    mallopt = _libc("mallopt")
    sizes = 2**30, 2**25  # bytes; older versions take no more than the second
    if mallopt is not None and any(mallopt(_M_MMAP_THRESHOLD, size) for size in sizes):
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Return to the system what :func:`keep_freed_memory` has kept."""
    if (trim := _libc("malloc_trim")) is not None:
        trim(0)


def _libc(name: str) -> Any:
    """A function of the C library; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """End this worker process where its parent is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


@contextmanager
def starting_workers() -> Iterator[None]:
    """Hold Ctrl-C back while processes are started, which do not get it; not on Windows.

    It reaches every process of the terminal; the parent decides what it means.
    """
    mask = getattr(signal, "pthread_sigmask", None)
    before = mask(signal.SIG_BLOCK, [signal.SIGINT]) if mask else []
    try:
        yield
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)


@contextmanager
def worker_pool(count: int) -> Iterator[Map]:
    """Yield a ``map`` that works in ``count`` processes: 0 takes one a core, 1 only this one.

    Raises UserError where a worker was killed, as happens when memory runs out.
    """
    count = count or available_cores()
    if count == 1:
        yield map
        return
    # Spawned, not forked: HDF5 and OpenCV do not survive a fork in a threaded parent.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start_worker)

    def start_and_map(work: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        with starting_workers():
            return pool.map(work, items)

    try:
        yield start_and_map
    except BrokenProcessPool as error:
        told = f"one of {count} worker processes was killed, perhaps for want of memory"
        raise UserError(f"{told}: use fewer (data.workers=1, or --workers 1)") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as starting_workers
    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_parent()


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file at ``path``; False where there is none."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False


def tell(what: str) -> None:
    """Say on stderr what is done now."""
    print(what, file=sys.stderr, flush=True)


@cache
def tell_once(what: str) -> None:
    """Say on stderr what this process has not said yet: the data of every stage are the same."""
    tell(what)


def progress(
    items: Iterable[Item], description: str, total: int | None = None, unit: str = "it"
) -> Iterable[Item]:
    """Iterate with a bar on stderr after a second, on a terminal and without ``TQDM_DISABLE``."""
    from tqdm import tqdm

    off = "TQDM_DISABLE" in os.environ or None  # None: off where stderr is no terminal
    bar: Iterable[Item] = tqdm(
        items, description, total, unit=unit, delay=1, leave=False, disable=off
    )
    return bar

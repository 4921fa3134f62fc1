"""Worker processes that never outlive this one."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import cv2

from seglab.core.errors import UserError
from seglab.core.machine import available_cores, end_with_parent, keep_freed_memory

Map = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""``map`` of a picklable function over picklable values; results come in order."""


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
    try:
        yield pool.map
    except BrokenProcessPool as error:
        told = f"one of {count} worker processes was killed, perhaps for want of memory"
        raise UserError(f"{told}: use fewer (data.workers=1, or --workers 1)") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_parent()

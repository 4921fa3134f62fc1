"""Apply functions in several processes that never outlive this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TypeVar

import cv2

from seglab.core.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers:
    """A context manager around so many processes.

    Args:
        count: processes; 0 takes one a core, 1 works in this process and starts none.
    """

    def __init__(self, count: int) -> None:
        self.count = count or _cores()
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self, work: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> Generator[Result, None, None]:
        """Yield ``work(job)`` of each job, in order; ``work`` and jobs are picklable.

        Raises:
            UserError: a worker was killed, as happens when memory runs out.
        """
        if self._pool is None:
            yield from map(work, jobs)
            return
        try:
            yield from self._pool.map(work, jobs)
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {self.count} worker processes was killed, perhaps for want of memory: "
                "set data.workers to 1"
            ) from error

    def __enter__(self) -> Workers:
        if self.count > 1:
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, name="watch-parent", daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1

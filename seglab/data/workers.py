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
from seglab.core.machine import available_cores
from seglab.core.memory import keep_freed_memory

Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers:
    """A context manager around so many processes.

    Args:
        count: processes; 0 takes one a core, 1 works in this process and starts none.
        prepare: called once in each process, before its first job; picklable.
    """

    def __init__(self, count: int, prepare: Callable[[], None] | None = None) -> None:
        self.count = count or available_cores()
        self._prepare = prepare
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
                "use fewer (data.workers=1, or --workers 1)"
            ) from error

    def __enter__(self) -> Workers:
        if self.count > 1:
            # Spawned, not forked: HDF5 and OpenCV do not survive a fork in a threaded parent.
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self._prepare,),
            )
        elif self._prepare is not None:
            self._prepare()
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


def _start_worker(prepare: Callable[[], None] | None) -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, name="watch-parent", daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Work done in threads before its results are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8
"""More would wait for the interpreter's lock."""


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int = 1
) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in order, while ``threads`` prepare those that follow.

    An exception in a thread is raised here, where its result is due; leaving early waits
    for what is being done and does no more.

    Args:
        work: called in several threads at once if ``threads`` > 1.
        items: taken in the calling thread, ``threads`` + 2 of them before the first result.
        threads: at least 1; ``MOST_THREADS`` of them are used.
    """
    threads = min(threads, MOST_THREADS)
    pool = ThreadPoolExecutor(threads, "ahead")
    prepared: deque[Future[Result]] = deque()
    try:
        for item in items:
            prepared.append(pool.submit(work, item))
            if len(prepared) > threads + 1:
                yield prepared.popleft().result()
        while prepared:
            yield prepared.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

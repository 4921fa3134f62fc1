"""A reference in a process of its own, set up as its author would have it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

Epoch = Callable[[], object]


@contextmanager
def script(make: Callable[[], Epoch]) -> Iterator[Epoch]:
    """Make a contestant in another process; what is yielded calls it there, and waits for it.

    How seglab waits, keeps memory and counts threads is a part of what is measured: none of
    it may speed the reference up.

    Args:
        make: gives what is called; picklable, as all that it holds.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_forget_our_settings) as process:
        process.submit(_prepare, make).result()
        yield lambda: process.submit(_call).result()


_prepared: list[Epoch] = []


def _forget_our_settings() -> None:
    # Set when seglab is imported, read when torch is: which is later.
    os.environ.pop("OMP_WAIT_POLICY", None)
    # A process that was spawned spawns its own, and workers of a DataLoader are forked.
    multiprocessing.set_start_method(None, force=True)


def _prepare(make: Callable[[], Epoch]) -> None:
    _prepared.append(make())


def _call() -> None:
    _prepared[-1]()

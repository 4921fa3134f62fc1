"""A reference in a process of its own, set up as its author would have it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType

Epoch = Callable[[], object]


class Script:
    """Makes a contestant in another process, and calls it there.

    How seglab waits, keeps memory and counts threads is a part of what is measured: none of
    it may speed the reference up.

    Args:
        make: gives what is called; picklable, as all that it holds.
    """

    def __init__(self, make: Callable[[], Epoch]) -> None:
        self._make = make

    def __enter__(self) -> Script:
        context = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, context, initializer=_forget_our_settings)
        self._process.submit(_prepare, self._make).result()
        return self

    def __call__(self) -> None:
        """Call it once, and wait for it."""
        self._process.submit(_call).result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.shutdown()


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

"""Importing large packages without looking for garbage among what they bring."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 100
"""So many new modules are worth passing over from then on."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import inside: what is imported stays, and searching it costs a fifth of a start.

    Afterwards the garbage collector is as it was. Where many modules came, it passes over
    all that exists by then; it is not frozen every time, for garbage would be frozen too.
    """
    was_on, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if len(sys.modules) - before >= MANY:
                gc.freeze()
                # Else a few C extensions complain, when Python ends, of what nobody collected.
                atexit.register(gc.unfreeze)
            gc.enable()

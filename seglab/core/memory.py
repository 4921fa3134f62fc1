"""What becomes of freed memory: kept for what comes next, or given back to the system.

Training steps, and volumes on their way into a cache, free and take hundreds of megabytes
again and again. Unasked, glibc gives them back to the kernel, which clears every page anew
before it may be written to. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names in glibc's ``malloc.h``."""
_NEVER_TRIM = 2**31 - 1
_LARGEST_KEPT = 2**30, 2**25
"""Blocks from the heap, bytes: what is wished for, and all that older versions take."""


def keep_freed_memory() -> None:
    """From now on, keep what this process frees."""
    mallopt = _libc("mallopt")
    # The second without the first would map, and clear, each block anew.
    if mallopt is not None and any(mallopt(_M_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT):
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


def give_back_freed_memory() -> None:
    """Give back what is kept now."""
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


def _libc(name: str) -> Any:
    """A function of the C library; None where it has none of this name."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)

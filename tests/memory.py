"""How much memory something takes at its peak."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

_CLEAR_PEAK = "5"


def growth(action: Callable[[], object]) -> int:
    """Return the bytes by which ``action`` made this process grow at its largest."""
    gc.collect()
    before = reset_peak()
    action()
    return peak() - before


def reset_peak() -> int:
    """Forget the peak so far; returns the bytes held now."""
    Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    return peak()


def peak() -> int:
    """Largest resident size, in bytes, since the peak was reset."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, status
    return int(found[1]) * 1024

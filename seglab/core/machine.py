"""What this machine gives to this process."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores this process may run on: fewer than the machine has, where it is confined."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

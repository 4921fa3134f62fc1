"""What this machine gives to this process."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where the kernel says what a container may use."""


def available_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may run on: fewer than the machine has, where it is confined.

    A container's share of processor time (``docker --cpus=2``) counts as so many cores: more
    threads than that would be stopped in turn.
    """
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    share = _share(cgroup)
    return cores if share >= cores else max(1, math.ceil(share))


def _share(cgroup: Path) -> float:
    """Processor time a second that the container may take; infinite where none is set."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = _first_version(cgroup)
    try:
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf


def _first_version(cgroup: Path) -> tuple[str, str]:
    """Quota and period of version 1 of the kernel's interface."""
    folder = cgroup / "cpu"
    try:
        quota = (folder / "cpu.cfs_quota_us").read_text().strip()
        return quota, (folder / "cpu.cfs_period_us").read_text().strip()
    except OSError:
        return "max", ""

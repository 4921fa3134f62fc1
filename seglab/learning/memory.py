"""Peak memory of one run, where a process may have had others before."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from seglab.core.machine import give_back_freed_memory

_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What Linux takes as: the peak begins again at what is held now (proc(5))."""


def restart_peak(device: torch.device) -> None:
    """Forget what the process held before; beyond Linux only the GPU's peak can be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    give_back_freed_memory()  # what was kept by is not the next run's
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:  # another system, or a sandbox: the peak is the whole process's
        return


def peak_memory_mb(device: torch.device) -> float:
    """MiB at most since :func:`restart_peak`: of the GPU if it trains there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

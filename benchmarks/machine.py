"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from seglab.learning.device import Compute, has_fast_bf16


def describe_machine(compute: Compute) -> dict[str, Any]:
    """Name processor, cores, threads, precision, memory, GPU and the versions that matter."""
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": compute.threads,
        "device": str(compute.device),
        "precision": compute.precision,
        "multiplies_bf16": has_fast_bf16(compute.device),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if compute.device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(compute.device)
    return machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0

"""Where and in what precision to compute, and how much memory that took."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from seglab.core.config import Train
from seglab.core.errors import UserError
from seglab.core.machine import available_cores, give_back_freed_memory, keep_freed_memory
from seglab.models.build import IMAGE_MEAN, IMAGE_SD


@dataclass(frozen=True)
class Compute:
    """A device, the precision of the forward pass, and the processor threads."""

    device: torch.device
    precision: str
    threads: int

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of the forward pass; losses and weights stay float32."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype)

    def images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(B,H,W,C) uint8 to (B,C,H,W) float32 on the device, channels last in memory."""
        return network_input(self.grey(images))

    def grey(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(B,H,W,C) uint8 to (B,C,H,W) float32 on the device, still 0 to 255."""
        return to_device(torch.from_numpy(images), self.device).permute(0, 3, 1, 2).float()

    def masks(self, masks: NDArray[np.uint8]) -> torch.Tensor:
        """(B,H,W) uint8 to (B,1,H,W) float32 on the device."""
        return to_device(torch.from_numpy(masks), self.device).unsqueeze(1).float()


def network_input(grey: torch.Tensor) -> torch.Tensor:
    """Scale grey levels 0 to 255, float32, to what networks see, in place; channels last."""
    scaled = grey.mul_(1 / (255 * IMAGE_SD)).sub_(IMAGE_MEAN / IMAGE_SD)
    return scaled.contiguous(memory_format=torch.channels_last)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the processor to the device without waiting for it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def choose_compute(train: Train) -> Compute:
    """Choose device, precision and threads, and set the process up for them.

    Results repeat to the bit on the same processor with the same thread count. A device that is not
    there is a UserError.
    """
    device = _device(train.device)
    precision = train.precision
    if precision == "auto":
        precision = fast_precision(device)
    threads = train.threads or available_cores()
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if device.type == "cpu":
        torch.set_deterministic_debug_mode("warn")  # its twin imports the compiler
        # Nothing here reads memory before it writes it; filling it first takes 8 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        keep_freed_memory()
    return Compute(device, precision, threads)


def _device(name: str) -> torch.device:
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    device = torch.device(name)
    gpus = {"cuda": torch.cuda.device_count(), "mps": int(has_mps), "cpu": 1}[device.type]
    if (device.index or 0) >= gpus:
        raise UserError(f"train.device: {name} is not there: {gpus} of its kind found")
    return device


def fast_precision(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The lowest precision that the device is faster in: fp16 on GPUs before Ampere, as the T4."""
    if has_fast_bf16(device):
        return "bf16"
    has_tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return "fp16" if has_tensor_cores else "fp32"


@cache
def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware; elsewhere autocast only costs time."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "mps":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def restart_peak(device: torch.device) -> None:
    """Forget what the process held before; beyond Linux only the GPU's peak can be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    give_back_freed_memory()  # the next run did not take it
    with suppress(OSError):  # 5 resets the peak, see proc(5); a sandbox may refuse
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """MiB at most since :func:`restart_peak`: of the GPU if it trains there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

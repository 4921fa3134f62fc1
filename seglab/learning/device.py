"""Where and in what precision to compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from seglab.core.config import Train
from seglab.core.errors import UserError
from seglab.core.machine import available_cores
from seglab.core.memory import keep_freed_memory

IMAGE_MEAN, IMAGE_SD = 0.5, 0.25
"""Network input is (q/255 - IMAGE_MEAN) / IMAGE_SD of the cached uint8 q: -2 to 2."""


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
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(B,H,W,C) uint8 to (B,C,H,W) float32 on the device, channels last in memory."""
        if self.device.type != "cpu":
            return network_input(self.grey(images))
        # Once through memory, in the calling thread: others of its kind have the other cores.
        scaled = cv2.LUT(images.reshape(len(images), -1), _inputs()).reshape(images.shape)
        return torch.from_numpy(scaled).permute(0, 3, 1, 2)

    def grey(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(B,H,W,C) uint8 to (B,C,H,W) float32 on the device, still 0 to 255."""
        tensor = torch.from_numpy(np.ascontiguousarray(images))
        return to_device(tensor, self.device).permute(0, 3, 1, 2).float()

    def masks(self, masks: NDArray[np.uint8]) -> torch.Tensor:
        """(B,H,W) uint8 to (B,1,H,W) float32 on the device."""
        if self.device.type == "cpu":
            return torch.from_numpy(masks.astype(np.float32)).unsqueeze(1)
        tensor = torch.from_numpy(np.ascontiguousarray(masks))
        return to_device(tensor, self.device).unsqueeze(1).float()


def network_input(grey: torch.Tensor) -> torch.Tensor:
    """Scale grey levels 0 to 255, float32, to what networks see, in place; channels last."""
    scaled = grey.mul_(1 / (255 * IMAGE_SD)).sub_(IMAGE_MEAN / IMAGE_SD)
    return scaled.contiguous(memory_format=torch.channels_last)


@cache
def _inputs() -> NDArray[np.float32]:
    """What networks see of each grey level: (256,)."""
    levels = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16)
    return network_input(levels).numpy().reshape(256)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the processor to the device without waiting for it."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def choose_compute(train: Train) -> Compute:
    """Choose device, precision and threads, and set the process up for them.

    Results repeat to the bit on the same processor with the same thread count.

    Raises:
        UserError: a device that is not there.
    """
    device = _device(train.device)
    precision = train.precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
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
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"train.device: {name} is not there: {torch.cuda.device_count()} GPUs found"
        )
    return device


@cache
def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware; elsewhere autocast only costs time."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags

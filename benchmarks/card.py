"""What a card can do at most, and how much of it a training step asks for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ROUNDS = 5
_NO_TRAFFIC = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach"}


@dataclass(frozen=True)
class Card:
    """Measured limits."""

    flops: float
    """bf16 matrix product, operations a second; a multiply–add counts as two."""
    bandwidth: float
    """Copy within its memory, bytes read plus bytes written a second."""


def measure_card(device: torch.device, side: int = 8192, copied: int = 2**30) -> Card:
    """Time a matrix product of ``side`` × ``side`` and a copy of so many bytes, random data."""
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    source = torch.randint(0, 256, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product_s = seconds_of(lambda: left @ right, device)
    copy_s = seconds_of(lambda: target.copy_(source), device)
    return Card(2 * side**3 / product_s, 2 * copied / copy_s)


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median seconds of a call whose work is queued on the device; the first are not timed."""
    seconds = []
    for _ in range(1 + _ROUNDS):
        wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        wait(device)
        seconds.append((time.perf_counter() - started) / repeats)
    return statistics.median(seconds[1:])


def launch_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds that the processor needs to queue a call on an idle device."""
    seconds = []
    for _ in range(1 + _ROUNDS):
        wait(device)
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    wait(device)
    return statistics.median(seconds[1:])


def wait(device: torch.device) -> None:
    """Return when the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that every operator inside reads and writes, each tensor once.

    Views move nothing. What a cache keeps between two operators, or a compiler fuses, is
    counted all the same: an estimate of eager execution.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator and count it."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in _NO_TRAFFIC:
            leaves = tree_leaves((args, kwargs, out))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return out

"""When ``torch.compile`` pays, and how it is used.

Compiling takes one to two minutes and then saves a share of every step, so it needs a
run of ten minutes or more. The run's work is known before it starts, its time is not,
and is estimated: a GPU trains at 150 TFLOP/s, but no step takes less than the processor
needs to launch its operators one by one. On a processor compiling saves nothing (0.94 to
1.05 times the speed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from seglab.learning.batches import say_once

Backend = Callable[..., Any]

LEAST_SECONDS = 600.0
_GFLOP_PER_SECOND = 150e3
_LAUNCH_S = 5e-3
"""Of an eager step: some thousand operators, their gradients and the optimizer; an estimate."""


def repays_compiling(gflop: float, steps: int, max_seconds: float | None) -> bool:
    """Whether a GPU run of so much work, or of so many seconds at most, is long enough."""
    seconds = max(gflop / _GFLOP_PER_SECOND, steps * _LAUNCH_S)
    return min(seconds, max_seconds or seconds) >= LEAST_SECONDS


class Forward:
    """The network's forward pass in training, compiled for full batches if asked.

    The weights are the network's own: checkpoints and validation do not see the
    difference. A smaller last batch of an epoch is not worth a second compilation.
    Making one that compiles drops what earlier ones have compiled.

    Args:
        network: from (B,C,H,W) to logits (B,1,H,W).
        compiles: whether to compile it.
        backend: of ``torch.compile``.
    """

    def __init__(
        self, network: nn.Module, *, compiles: bool, backend: str | Backend = "inductor"
    ) -> None:
        self.network = network
        self._compiled = _compile(network, backend) if compiles else None

    @property
    def is_compiled(self) -> bool:
        """Whether full batches run compiled; no longer true once compiling has failed."""
        return self._compiled is not None

    def __call__(self, images: torch.Tensor, *, is_full: bool) -> torch.Tensor:
        """Compute logits; a machine that cannot compile goes on without."""
        logits = self._try_compiled(images) if is_full else None
        if logits is None:
            logits = self.network(images)
        return logits

    def _try_compiled(self, images: torch.Tensor) -> torch.Tensor | None:
        if self._compiled is None:
            return None
        # Imported here, as it takes a third of the time that torch itself takes.
        from torch._dynamo.exc import TorchDynamoException

        try:
            logits: torch.Tensor = self._compiled(images)
        except TorchDynamoException as error:
            say_once(f"torch.compile does not work here: {_in_one_line(error)}")
            self._compiled = None
            return None
        return logits


def _compile(network: nn.Module, backend: str | Backend) -> Callable[..., torch.Tensor]:
    """Compile for the one shape that full batches of a run have.

    What is compiled is kept by code, not by network: the runs that a process had before
    count as other shapes of this one, which from the second on would be compiled for any
    size and after the eighth not at all.
    """
    torch.compiler.reset()
    return torch.compile(network, backend=backend, dynamic=False)


def _in_one_line(error: Exception) -> str:
    """Torch names the compiler in the first line and what went wrong in the second."""
    return " ".join(str(error).splitlines()[:2])

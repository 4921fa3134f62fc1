"""What a network costs, before it has run once."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def gflops_per_image(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> float:
    """Count the floating-point operations of one forward pass of one image, in 1e9.

    A multiply–add counts as two. Convolutions, matrix products and attention are
    counted, element-wise operations are not. A training step costs about three times
    as much. Nothing is computed: a copy runs on the ``meta`` device in evaluation
    mode, so neither the random state nor running statistics of ``network`` change.
    """
    ghost = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, in_channels, *hw, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(image)
    return float(counter.get_total_flops()) / 1e9

"""What a network costs, before it has run once."""

from __future__ import annotations

import torch
from torch import nn

from seglab.models.network import meta_copy


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def gflops_per_image(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> float:
    """Count the floating-point operations of one forward pass of one image, in 1e9.

    A multiply–add counts as two. Convolutions, matrix products and attention are
    counted, element-wise operations are not; padding is. A training step costs about
    three times as much. Only shapes are computed: ``network`` stays as it is.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which takes a while

    image = torch.empty(1, in_channels, *hw, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta_copy(network)(image)
    return float(counter.get_total_flops()) / 1e9

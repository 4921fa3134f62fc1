"""Batch normalisation folded into the convolution before it, for networks that only predict."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_normalisation(network: nn.Module) -> nn.Module:
    """Copy a network, in evaluation mode, without its normalisation passes.

    With its running statistics a normalisation is one more factor and shift for each
    channel, which the weights before it can carry: the same function but for rounding, and
    one pass less over every map. Folded is what stands side by side in an ``nn.Sequential``.
    """
    folded = copy.deepcopy(network).eval()
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for (place, first), (after, second) in pairwise(list(block.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(block, place, fuse_conv_bn_eval(first, second))
                setattr(block, after, nn.Identity())
    return folded

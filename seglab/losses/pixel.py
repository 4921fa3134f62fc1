"""Losses that are a mean over pixels."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from seglab.core.registry import LOSSES
from seglab.losses.common import Loss, PositiveWeight, widen


@LOSSES.register("bce")
def bce(*, pos_weight: PositiveWeight = 1.0) -> Loss:
    """Binary cross-entropy, mean over pixels; pos_weight multiplies tumour pixels."""

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        # Filled where the logits are: copied from the processor it would make every step wait.
        weight = logits.new_full((), pos_weight)
        return F.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight)

    return loss


@LOSSES.register("focal")
def focal(
    *,
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0,
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.25,
) -> Loss:
    """Focal loss, mean over pixels: alpha weighs tumour, gamma mutes the easy; Lin 2017."""

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        margin = logits * (2 * mask - 1)
        weight = alpha * mask + (1 - alpha) * (1 - mask)
        # (1 - p)^gamma through the logarithm: the power's own gradient is infinite
        # at p = 1 for gamma below 1.
        modulation = torch.exp(gamma * F.logsigmoid(-margin))
        return -(weight * modulation * F.logsigmoid(margin)).mean()

    return loss

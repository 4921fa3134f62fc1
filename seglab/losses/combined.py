"""Weighted sums of a pixel loss and a region loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from seglab.core.registry import LOSSES
from seglab.losses.common import Empty, Loss, Pool, PositiveWeight, Smooth
from seglab.losses.overlap import dice
from seglab.losses.pixel import bce


@LOSSES.register("bce_dice")
def bce_dice(
    *,
    bce_weight: Annotated[float, Field(ge=0, le=100)] = 1.0,
    pos_weight: PositiveWeight = 1.0,
    pool: Pool = "batch",
    smooth: Smooth = 1.0,
    empty: Empty = "penalise",
) -> Loss:
    """bce_weight x BCE + Dice loss: steady gradients and the metric's own goal; Isensee 2021."""
    pixels = bce(pos_weight=pos_weight)
    region = dice(pool=pool, smooth=smooth, empty=empty)

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        return bce_weight * pixels(logits, mask) + region(logits, mask)

    return loss

"""What all losses share: their type, their precision, their named policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From logits (B,1,H,W), any float, and mask (B,1,H,W) in {0,1} to a scalar, at least fp32."""

Pool = Literal["image", "batch"]
"""Pixels are counted per ``image`` and the losses averaged, or over the whole ``batch``."""

Empty = Literal["penalise", "skip"]
"""What a pool without tumour adds. ``penalise``: the smoothed loss, 0 without a false alarm
and rising with each; ``skip``: nothing, the average runs over the other pools."""

Smooth = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Pixels added to numerator and denominator alike."""

PositiveWeight = Annotated[float, Field(gt=0, le=1e4)]
"""How many times a tumour pixel counts."""


def widen(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Raise half precision to fp32, and give the mask the type of the logits.

    Sums over 1e5 pixels have no place in 8 or 11 bits of mantissa. Wider types pass.

    Raises:
        ValueError: the two shapes differ; broadcasting would hide it.
    """
    if logits.shape != mask.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and mask {tuple(mask.shape)} differ")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, mask.to(logits.dtype)


def flatten_pools(pixels: Tensor, pool: Pool) -> Tensor:
    """Reshape (B,1,H,W) to (pools, pixels of a pool)."""
    return pixels.flatten(1) if pool == "image" else pixels.reshape(1, -1)


def average_pools(losses: Tensor, truth_px: Tensor, empty: Empty) -> Tensor:
    """Average the losses of the pools (P,), those without truth by the policy ``empty``."""
    if empty == "penalise":
        return losses.mean()
    present = (truth_px > 0).to(losses.dtype)
    return (losses * present).sum() / present.sum().clamp_min(1)

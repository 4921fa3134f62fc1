"""Losses from logits (B,1,H,W) and mask (B,1,H,W) to a scalar, built by name."""

from seglab.losses import boundary, combined, lovasz, overlap, pixel  # noqa: F401  (register)
from seglab.losses.common import Loss

__all__ = ["Loss"]

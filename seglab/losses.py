"""Losses from logits (B,1,H,W) and mask (B,1,H,W) to a scalar, built by name.

Written by hand: other libraries differ in what an empty batch costs, and equal these elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from seglab.core.registry import LOSSES

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Logits (B,1,H,W), any float, and mask (B,1,H,W), any type, 0 to 1, to a scalar, at least fp32."""

Pool = Literal["image", "batch"]
"""Pixels are counted per ``image`` and the losses averaged, or over the whole ``batch``."""

Empty = Literal["penalise", "skip"]
"""What a pool without tumour adds. ``penalise``: the smoothed loss, 0 without a false alarm
and rising with each; ``skip``: nothing, the average runs over the other pools."""

Smooth = Annotated[float, Field(ge=1e-6, le=1e6)]  # pixels added to numerator and denominator alike

PositiveWeight = Annotated[float, Field(gt=0, le=1e4)]
MissWeight = Annotated[float, Field(ge=0, le=1)]

LOSSES.retire("boundary", "its gradient was 300 times smaller than that of the Dice loss beside it")


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


class SoftCounts(NamedTuple):
    """Expected confusion counts of each pool, in pixels, (P,); probabilities, not decisions."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


def one_minus(score: Callable[[SoftCounts], Tensor], pool: Pool, empty: Empty) -> Loss:
    """Make the loss of a score of each pool that is 1 at a perfect overlap.

    Counts are those of p = sigmoid(logits): tp = Σ p·m, fp = Σ p·(1-m), …; each a sum of
    non-negative numbers, which rounding cannot make negative.
    """

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        probs, truth = flatten_pools(logits.sigmoid(), pool), flatten_pools(mask, pool)
        both, neither = probs * truth, (1 - probs) * (1 - truth)
        sums = (both.sum(1), (probs - both).sum(1), (truth - both).sum(1), neither.sum(1))
        counts = SoftCounts(*sums)
        return average_pools(1 - score(counts), counts.tp + counts.fn, empty)

    return loss


@LOSSES.register("dice")
def dice(*, pool: Pool = "batch", smooth: Smooth = 1.0, empty: Empty = "penalise") -> Loss:
    """1 - Dice, (2 tp + smooth) / (2 tp + fp + fn + smooth); Drozdzal 2016, Sudre 2017."""
    return one_minus(lambda n: (2 * n.tp + smooth) / (2 * n.tp + n.fp + n.fn + smooth), pool, empty)


@LOSSES.register("bce_dice")
def bce_dice(
    *,
    bce_weight: Annotated[float, Field(ge=0, le=100)] = 1.0,
    pos_weight: PositiveWeight = 1.0,
    pool: Pool = "batch",
    smooth: Smooth = 1.0,
    empty: Empty = "penalise",
) -> Loss:
    """bce_weight · BCE + Dice loss: steady gradients and the metric's own goal; Isensee 2021."""
    pixels = bce(pos_weight=pos_weight)
    region = dice(pool=pool, smooth=smooth, empty=empty)

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        return bce_weight * pixels(logits, mask) + region(logits, mask)

    return loss


@LOSSES.register("jaccard")
def jaccard(*, pool: Pool = "batch", smooth: Smooth = 1.0, empty: Empty = "penalise") -> Loss:
    """1 - Jaccard (IoU), (tp + smooth) / (tp + fp + fn + smooth); Rahman 2016."""
    return one_minus(lambda n: (n.tp + smooth) / (n.tp + n.fp + n.fn + smooth), pool, empty)


def tversky_index(n: SoftCounts, alpha: float, smooth: float) -> Tensor:
    """(tp + smooth) / (tp + alpha fn + (1 - alpha) fp + smooth) of each pool."""
    return (n.tp + smooth) / (n.tp + alpha * n.fn + (1 - alpha) * n.fp + smooth)


@LOSSES.register("tversky")
def tversky(
    *,
    alpha: MissWeight = 0.7,
    pool: Pool = "batch",
    smooth: Smooth = 1.0,
    empty: Empty = "penalise",
) -> Loss:
    """1 - Tversky index: alpha weighs misses, 1 - alpha false alarms; Salehi 2017.

    Salehi writes alpha for false alarms and beta = 1 - alpha for misses; this alpha is that
    beta, as in Abraham 2019. 0.5 gives the Dice loss (with twice its ``smooth``).
    """
    return one_minus(lambda n: tversky_index(n, alpha, smooth), pool, empty)


@LOSSES.register("focal_tversky")
def focal_tversky(
    *,
    alpha: MissWeight = 0.7,
    gamma: Annotated[float, Field(ge=1, le=3)] = 4 / 3,
    pool: Pool = "batch",
    smooth: Smooth = 1.0,
    empty: Empty = "penalise",
) -> Loss:
    """(1 - Tversky index)^(1/gamma), alpha weighs misses; Abraham 2019."""

    def score(n: SoftCounts) -> Tensor:
        # The root's gradient is infinite at a perfect overlap.
        deficit = (1 - tversky_index(n, alpha, smooth)).clamp_min(1e-7)
        return 1 - deficit.pow(1 / gamma)

    return one_minus(score, pool, empty)


@LOSSES.register("mcc")
def mcc(*, pool: Pool = "batch", smooth: Smooth = 1.0, empty: Empty = "penalise") -> Loss:
    """1 - Matthews correlation coefficient, true negatives included; Abhishek 2021.

    ``smooth`` pixels are added to tp and to tn: a pool without tumour and without
    false alarm then scores 1, and false alarms on it lower the score.
    """

    def score(n: SoftCounts) -> Tensor:
        tp, tn = n.tp + smooth, n.tn + smooth
        # Two roots of two factors each: the product of four overflows fp32 first.
        spread = ((tp + n.fp) * (tn + n.fn)).sqrt() * ((tp + n.fn) * (tn + n.fp)).sqrt()
        return (tp * tn - n.fp * n.fn) / spread

    return one_minus(score, pool, empty)


@LOSSES.register("lovasz")
def lovasz(*, pool: Pool = "image", empty: Empty = "penalise") -> Loss:
    """Lovász hinge, the convex extension of 1 - IoU; Berman 2018.

    In a pool without tumour only the worst false alarm is penalised. Unbounded: it
    grows with the margin by which a pixel is wrong, as hinges do. Masks must be 0 or 1.
    """

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        margins, truth = flatten_pools(logits, pool), flatten_pools(mask, pool)
        # Algorithm 1 of Berman 2018, on each row of (P,N).
        errors, order = (1 - margins * (2 * truth - 1)).sort(dim=1, descending=True)
        truth = truth.gather(1, order)
        positives = truth.sum(1, keepdim=True)
        missed, false = truth.cumsum(1), (1 - truth).cumsum(1)
        # Jaccard loss after the k worst pixels are taken as wrong.
        jaccard = 1 - (positives - missed) / (positives + false)
        steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
        return average_pools((F.relu(errors) * steps).sum(1), positives[:, 0], empty)

    return loss


def widen(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Raise half precision to fp32, and give the mask the type of the logits.

    Sums over 1e5 pixels have no place in 8 or 11 bits of mantissa. Wider types pass. Raises
    ValueError where the two shapes differ; broadcasting would hide it.
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

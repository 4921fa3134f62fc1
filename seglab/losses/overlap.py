"""Losses that are one minus a soft overlap of two regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from seglab.core.registry import LOSSES
from seglab.losses.common import Empty, Loss, Pool, Smooth, average_pools, flatten_pools, widen

MissWeight = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class SoftCounts:
    """Expected confusion counts of each pool, in pixels, (P,); probabilities, not decisions."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


def soft_counts(logits: Tensor, mask: Tensor, pool: Pool) -> SoftCounts:
    """Count with p = sigmoid(logits): tp = Σ p·m, fp = Σ p·(1-m), …

    Each term is a sum of non-negative numbers: rounding cannot make a count negative.
    """
    probs, truth = flatten_pools(logits.sigmoid(), pool), flatten_pools(mask, pool)
    both = probs * truth
    return SoftCounts(
        tp=both.sum(1),
        fp=(probs - both).sum(1),
        fn=(truth - both).sum(1),
        tn=((1 - probs) * (1 - truth)).sum(1),
    )


def _one_minus(score: Callable[[SoftCounts], Tensor], pool: Pool, empty: Empty) -> Loss:
    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        counts = soft_counts(logits, mask, pool)
        return average_pools(1 - score(counts), counts.tp + counts.fn, empty)

    return loss


@LOSSES.register("dice")
def dice(*, pool: Pool = "batch", smooth: Smooth = 1.0, empty: Empty = "penalise") -> Loss:
    """1 - Dice, (2 tp + smooth) / (2 tp + fp + fn + smooth); Milletari 2016."""

    def score(n: SoftCounts) -> Tensor:
        return (2 * n.tp + smooth) / (2 * n.tp + n.fp + n.fn + smooth)

    return _one_minus(score, pool, empty)


@LOSSES.register("jaccard")
def jaccard(*, pool: Pool = "batch", smooth: Smooth = 1.0, empty: Empty = "penalise") -> Loss:
    """1 - Jaccard (IoU), (tp + smooth) / (tp + fp + fn + smooth); Rahman 2016."""

    def score(n: SoftCounts) -> Tensor:
        return (n.tp + smooth) / (n.tp + n.fp + n.fn + smooth)

    return _one_minus(score, pool, empty)


@LOSSES.register("tversky")
def tversky(
    *,
    alpha: MissWeight = 0.7,
    pool: Pool = "batch",
    smooth: Smooth = 1.0,
    empty: Empty = "penalise",
) -> Loss:
    """1 - Tversky index: alpha weighs misses, 1 - alpha false alarms; Salehi 2017.

    (tp + smooth) / (tp + alpha fn + (1 - alpha) fp + smooth). Salehi writes alpha for
    false alarms and beta = 1 - alpha for misses; this alpha is that beta, as in
    Abraham 2019. 0.5 gives the Dice loss (with twice its ``smooth``).
    """
    return _one_minus(lambda n: _tversky_index(n, alpha, smooth), pool, empty)


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

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        counts = soft_counts(logits, mask, pool)
        # The root's gradient is infinite at a perfect overlap.
        deficit = (1 - _tversky_index(counts, alpha, smooth)).clamp_min(1e-7)
        return average_pools(deficit.pow(1 / gamma), counts.tp + counts.fn, empty)

    return loss


def _tversky_index(n: SoftCounts, alpha: float, smooth: float) -> Tensor:
    return (n.tp + smooth) / (n.tp + alpha * n.fn + (1 - alpha) * n.fp + smooth)


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

    return _one_minus(score, pool, empty)

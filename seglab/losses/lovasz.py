"""The Lovász hinge: a convex surface over the Jaccard index of decisions, not probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from seglab.core.registry import LOSSES
from seglab.losses.common import Empty, Loss, Pool, average_pools, flatten_pools, widen


@LOSSES.register("lovasz")
def lovasz(*, pool: Pool = "image", empty: Empty = "penalise") -> Loss:
    """Lovász hinge, the convex extension of 1 - IoU; Berman 2018.

    In a pool without tumour only the worst false alarm is penalised. Unbounded: it
    grows with the margin by which a pixel is wrong, as hinges do.
    """

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        truth = flatten_pools(mask, pool)
        hinges = _lovasz_hinge(flatten_pools(logits, pool), truth)
        return average_pools(hinges, truth.sum(1), empty)

    return loss


def _lovasz_hinge(logits: Tensor, truth: Tensor) -> Tensor:
    """Algorithm 1 of Berman 2018 on each row of (P,N); gives (P,)."""
    errors, order = (1 - logits * (2 * truth - 1)).sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    positives = truth.sum(1, keepdim=True)
    missed, false = truth.cumsum(1), (1 - truth).cumsum(1)
    # Jaccard loss after the k worst pixels are taken as wrong.
    jaccard = 1 - (positives - missed) / (positives + false)
    steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    return (F.relu(errors) * steps).sum(1)

"""A loss that weighs a wrong pixel by its distance from the true outline."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from seglab.core.registry import LOSSES
from seglab.losses.common import Empty, Loss, Pool, Smooth, widen
from seglab.losses.distance import distance_to
from seglab.losses.overlap import dice


@LOSSES.register("boundary")
def boundary(
    *,
    weight: Annotated[float, Field(ge=0, le=1)] = 0.01,
    pool: Pool = "batch",
    smooth: Smooth = 1.0,
    empty: Empty = "penalise",
) -> Loss:
    """(1 - weight) x Dice loss + weight x mean of probability x signed distance; Kervadec 2019.

    The distance is in pixels, positive outside the tumour, so that the sum is smallest,
    and negative, where the prediction is the truth. A slice without tumour has no
    outline: there the Dice part alone acts. The weight stays constant (the paper also
    lets it grow). ``pool``, ``smooth`` and ``empty`` are those of the Dice part.
    """
    region = dice(pool=pool, smooth=smooth, empty=empty)

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        logits, mask = widen(logits, mask)
        surface = (logits.sigmoid() * signed_distance(mask)).mean()
        return (1 - weight) * region(logits, mask) + weight * surface

    return loss


def signed_distance(mask: Tensor) -> Tensor:
    """Distance of each pixel to the outline, in pixels, of the type and device of ``mask``.

    Args:
        mask: (B,1,H,W) in {0,1}.

    Returns:
        (B,1,H,W): outside the distance to the nearest tumour pixel; inside, 1 minus the
        distance to the nearest pixel without tumour, hence 0 on the rim. 0 throughout in a
        slice that is all tumour or has none.
    """
    if mask.is_cuda:
        return signed_distance_there(mask)
    slices = mask.detach().to(torch.uint8).flatten(0, 1).numpy()
    distances = torch.from_numpy(np.stack([_signed_distance(slice_) for slice_ in slices]))
    return distances.view(mask.shape).to(mask)


def signed_distance_there(mask: Tensor) -> Tensor:
    """``signed_distance`` on the device of ``mask``, in steps that nothing waits for."""
    tumour = mask.detach().flatten(0, 1) > 0
    inside, outside = distance_to(torch.cat([~tumour, tumour])).chunk(2)
    signed = torch.where(tumour, 1 - inside, outside)
    has_outline = tumour.any(dim=2).any(dim=1) & (~tumour).any(dim=2).any(dim=1)
    return (signed * has_outline[:, None, None]).view(mask.shape).to(mask)


def _signed_distance(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape, np.float32)
    inside = _distance_to_zero(mask)
    return np.where(mask > 0, 1 - inside, _distance_to_zero(1 - mask))


def _distance_to_zero(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    distance: NDArray[np.float32] = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance

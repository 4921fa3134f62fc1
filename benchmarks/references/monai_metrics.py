"""MONAI's metrics of one patient."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from seglab.evaluation.surface import TOLERANCE_MM


def monai_scores(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """Dice, HD95 and surface Dice of masks (S, H, W), under the names that we give them."""
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    pred, true = (torch.from_numpy(mask).float()[None, None] for mask in (prediction, truth))
    distance = compute_hausdorff_distance(
        pred, true, include_background=True, percentile=95, spacing=spacing_mm
    )
    surface = compute_surface_dice(
        pred, true, [TOLERANCE_MM], include_background=True, spacing=spacing_mm
    )
    return {
        "dice": compute_dice(pred, true).item(),
        "hd95_mm": distance.item(),
        "nsd_2mm": surface.item(),
    }

"""A Dataset over the cache, and the usual albumentations on float32 items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from seglab.data.cache import Cache


def usual_augmentation(mirror_axis: int) -> A.Compose:
    """The default pipeline in albumentations' own transforms: same kinds, limits and odds."""
    flip = A.VerticalFlip if mirror_axis == 0 else A.HorizontalFlip
    return A.Compose(
        [
            flip(p=0.5),
            A.Affine(
                rotate=(-15, 15),
                scale=(0.85, 1.15),
                translate_percent=(-0.04, 0.04),
                interpolation=cv2.INTER_LINEAR,
                p=0.7,
            ),
            A.ElasticTransform(alpha=250, sigma=10, p=0.3),
            # Before brightness: what that takes below 0 has no power.
            A.RandomGamma(gamma_limit=(77, 130), p=0.7),
            A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.7),
            A.GaussNoise(std_range=(0.0, 0.04), p=0.2),
            A.GaussianBlur(sigma_limit=(0.3, 0.8), blur_limit=0, p=0.1),
        ],
        seed=0,
    )


class CachedSlices(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One float32 item at a time from the same cache.

    Args:
        cache: opened.
        rows: which of its slices.
        transform: changes image (H, W) float32 in [0, 1] and mask (H, W) together.
    """

    def __init__(
        self, cache: Cache, rows: np.ndarray, transform: Callable[..., dict[str, Any]] | None = None
    ) -> None:
        self.cache, self.rows, self.transform = cache, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.rows[index : index + 1]
        image = self.cache.images[0][row][0].astype(np.float32) / 255
        mask = self.cache.masks(row)[0].astype(np.float32)
        if self.transform is not None:
            changed = self.transform(image=image, mask=mask)
            image, mask = changed["image"], changed["mask"]
        return torch.from_numpy(image)[None], torch.from_numpy(mask)[None]

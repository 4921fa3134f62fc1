"""Training as MONAI's tutorials show it: CacheDataset, ThreadDataLoader, dictionary transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.stage import Unavailable
from seglab.core.config import RunConfig
from seglab.data.cache import Cache, open_cache
from seglab.data.loader import Rows
from seglab.learning.device import Compute
from seglab.models import build_model

BOTH = ("image", "mask")


def require_monai() -> None:
    """Raise ``Unavailable`` where MONAI is not installed."""
    try:
        import monai  # noqa: F401
    except ImportError:
        raise Unavailable("MONAI is not installed: pip install -r tests/requirements.txt") from None


def matching_transforms(mirror_axis: int) -> Any:
    """The default augmentation in MONAI's transforms: same kinds, limits and odds."""
    from monai import transforms as T

    modes, degree = ("bilinear", "nearest"), torch.pi / 180
    limits = {"rotate_range": 15 * degree, "scale_range": 0.15, "translate_range": 4.0}
    return T.Compose(
        [
            T.EnsureTyped(BOTH),
            T.RandFlipd(BOTH, prob=0.5, spatial_axis=mirror_axis),
            T.RandAffined(BOTH, prob=0.7, mode=modes, padding_mode="zeros", **limits),
            T.Rand2DElasticd(
                BOTH, prob=0.3, spacing=(10, 10), magnitude_range=(0, 1.6), mode=modes
            ),
            T.RandAdjustContrastd("image", prob=0.7, gamma=(0.77, 1.3)),
            T.RandScaleIntensityd("image", prob=0.7, factors=0.2),
            T.RandShiftIntensityd("image", prob=0.7, offsets=0.1),
            T.RandGaussianNoised("image", prob=0.2, std=0.04),
            T.RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.3, 0.8), sigma_y=(0.3, 0.8)),
        ]
    )


class MonaiTraining:
    """Trains a network of one channel on the same cached slices, in the same precision.

    Args:
        config: of the run it stands beside.
        folder: the cache of its data.
        rows: slices trained on in an epoch.
        validation: slices validated on after it.
        compute: of the run.
    """

    def __init__(
        self, config: RunConfig, folder: Path, rows: Rows, validation: Rows, compute: Compute
    ) -> None:
        from monai.data import CacheDataset, ThreadDataLoader
        from monai.losses import DiceCELoss
        from monai.metrics import DiceMetric

        cache = open_cache(folder)
        height, width = cache.shape
        self.network, self.compute = build_model(config.model, 1, (height, width)), compute
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        self.loss, self.metric = DiceCELoss(sigmoid=True), DiceMetric(include_background=True)
        training = CacheDataset(
            _items(cache, rows), matching_transforms(cache.mirror_axis), progress=False
        )
        size = config.train.batch_size
        self.train_loader = ThreadDataLoader(
            training, batch_size=size, shuffle=True, num_workers=0, drop_last=True
        )
        self.validation_loader = ThreadDataLoader(
            CacheDataset(_items(cache, validation), progress=False), batch_size=size, num_workers=0
        )

    def __call__(self) -> float:
        """Train and validate one epoch; returns the mean Dice."""
        self.network.train()
        for batch in self.train_loader:
            self.optimizer.zero_grad()
            with self.compute.autocast():
                logits = self.network(batch["image"].as_tensor())
            self.loss(logits.float(), batch["mask"].as_tensor()).backward()
            self.optimizer.step()
        self.network.eval()
        for batch in self.validation_loader:
            with torch.no_grad(), self.compute.autocast():
                logits = self.network(batch["image"])
            self.metric(y_pred=(logits > 0).float(), y=batch["mask"])
        dice = float(self.metric.aggregate().item())
        self.metric.reset()
        return dice


def _items(cache: Cache, rows: Rows) -> list[dict[str, torch.Tensor]]:
    images = torch.from_numpy(cache.images[0][rows]).float()[:, None] / 255
    masks = torch.from_numpy(cache.masks(rows)).float()[:, None]
    return [{"image": image, "mask": mask} for image, mask in zip(images, masks, strict=True)]

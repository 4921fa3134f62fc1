"""The usual ways, as tutorials show them: what the stages are measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import h5py
import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.stage import Unavailable
from seglab.core.config import RunConfig
from seglab.data.cache import Cache, open_cache
from seglab.data.loader import Rows, gather
from seglab.evaluation.surface import TOLERANCE_MM
from seglab.learning.device import Compute
from seglab.learning.optimizer import build_optimizer
from seglab.models.build import build_model

BOTH = ("image", "mask")


def read_slices(paths: Sequence[Path]) -> None:
    """Read ``image[:]`` and ``mask[:]`` of every h5 file."""
    for path in paths:
        with h5py.File(path, "r") as file:
            file["image"][:]
            file["mask"][:]


def read_volumes(paths: Sequence[Path]) -> None:
    """Load the voxels of every volume, as nibabel's manual shows it."""
    for path in paths:
        nib.load(path).get_fdata()


class SliceFiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The Dataset of most notebooks about these files: one h5 file an item.

    Args:
        paths: one h5 file a slice.
        transform: changes image (H, W) float32 and mask (H, W) float32 together.
    """

    def __init__(
        self, paths: Sequence[Path], transform: Callable[..., dict[str, Any]] | None = None
    ) -> None:
        self.paths, self.transform = list(paths), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with h5py.File(self.paths[index], "r") as file:
            image = file["image"][:][..., 0].astype(np.float32)
            mask = file["mask"][:].max(axis=-1).astype(np.float32)
        if self.transform is not None:
            changed = self.transform(image=image, mask=mask)
            image, mask = changed["image"], changed["mask"]
        return torch.from_numpy(image)[None], torch.from_numpy(mask)[None]


class BareLoop:
    """Only the training step, on the slices ``rows`` in memory; nothing is validated or kept."""

    def __init__(self, config: RunConfig, cache: Cache, rows: Rows, compute: Compute) -> None:
        self.compute, self.loss = compute, config.loss.build()
        network = build_model(config.model, config.input_channels, cache.shape)
        self.network = network.to(compute.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.network, config.optim, compute.device)
        images = compute.images(gather(cache, rows, config.data.context))
        masks, size = compute.masks(cache.masks(rows)), config.train.batch_size
        starts = range(0, len(rows) - 1, size)
        self.batches = [(images[i : i + size], masks[i : i + size]) for i in starts]

    def __call__(self) -> None:
        """Train one epoch."""
        for images, masks in self.batches:
            with self.compute.autocast():
                logits = self.network(images)
            loss = self.loss(logits.float(), masks)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()


def usual_augmentation(mirror_axis: int) -> list[Any]:
    """The default pipeline in albumentations' own transforms: same kinds, limits and odds."""
    shift = {"translate_percent": (-0.04, 0.04), "interpolation": cv2.INTER_LINEAR}
    return [
        (A.VerticalFlip if mirror_axis == 0 else A.HorizontalFlip)(p=0.5),
        A.Affine(rotate=(-15, 15), scale=(0.85, 1.15), p=0.7, **shift),
        A.ElasticTransform(alpha=250, sigma=10, p=0.3),
        # Before brightness: what that takes below 0 has no power.
        A.RandomGamma(gamma_limit=(77, 130), p=0.7),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.7),
        A.GaussNoise(std_range=(0.0, 0.04), p=0.2),
        A.GaussianBlur(sigma_limit=(0.3, 0.8), blur_limit=0, p=0.1),
    ]


class TutorialScript:
    """The usual tutorial script: h5 files, float32, two workers, loss read each step.

    Args:
        config: of the run it is compared with; its network gets one channel.
        train: files trained on in an epoch.
        validation: files validated on after it.
        shape: (h, w) every slice is resized to, before it is scaled to [0, 1].
        mirror_axis: of the slices as they are in the files.
    """

    def __init__(
        self, config: RunConfig, train: Sequence[Path], validation: Sequence[Path],
        shape: tuple[int, int], mirror_axis: int,
    ) -> None:  # fmt: skip
        self.network, size = build_model(config.model, 1, shape), config.train.batch_size
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        self.loss = nn.BCEWithLogitsLoss()
        scaled = [A.Resize(*shape), A.Lambda(image=_to_unit_range)]
        training = SliceFiles(train, A.Compose([*scaled, *usual_augmentation(mirror_axis)]))
        known = SliceFiles(validation, A.Compose(scaled))
        self.training = DataLoader(training, size, shuffle=True, num_workers=2, drop_last=True)
        self.validation = DataLoader(known, size, num_workers=2)

    def __call__(self) -> float:
        """Train and validate one epoch; returns the mean Dice of the validation batches."""
        self.network.train()
        total = 0.0
        for images, masks in self.training:
            self.optimizer.zero_grad()
            loss = self.loss(self.network(images), masks)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        self.network.eval()
        scores: list[float] = []
        with torch.no_grad():
            for images, masks in self.validation:
                predicted = torch.sigmoid(self.network(images)) > 0.5
                overlap = (predicted * masks).sum()
                scores.append((2 * overlap / (predicted.sum() + masks.sum() + 1e-6)).item())
        return sum(scores) / len(scores)


def _to_unit_range(image: Any, **_: Any) -> Any:
    # A.Normalize leaves -1e-9, of which RandomGamma makes NaN.
    return (image - image.min()) / (image.max() - image.min() + 1e-8)


def require_monai() -> None:
    """Raise ``Unavailable`` where MONAI is not installed."""
    try:
        import monai  # noqa: F401
    except ImportError:
        raise Unavailable("MONAI is not installed: pip install -r tests/requirements.txt") from None


class MonaiTraining:
    """MONAI's tutorial: CacheDataset, ThreadDataLoader, dictionary transforms, same precision.

    Args:
        config: of the run it is compared with.
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

        cache, size = open_cache(folder), config.train.batch_size
        self.network, self.compute = build_model(config.model, 1, cache.shape), compute
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        self.loss, self.metric = DiceCELoss(sigmoid=True), DiceMetric(include_background=True)
        transforms = _monai_augmentation(cache.mirror_axis)
        training = CacheDataset(_items(cache, rows), transforms, progress=False)
        known = CacheDataset(_items(cache, validation), progress=False)
        usual = {"batch_size": size, "num_workers": 0}
        self.training = ThreadDataLoader(training, shuffle=True, drop_last=True, **usual)
        self.validation = ThreadDataLoader(known, **usual)

    def __call__(self) -> float:
        """Train and validate one epoch; returns the mean Dice."""
        self.network.train()
        for batch in self.training:
            self.optimizer.zero_grad()
            with self.compute.autocast():
                logits = self.network(batch["image"].as_tensor())
            self.loss(logits.float(), batch["mask"].as_tensor()).backward()
            self.optimizer.step()
        self.network.eval()
        for batch in self.validation:
            with torch.no_grad(), self.compute.autocast():
                logits = self.network(batch["image"])
            self.metric(y_pred=(logits > 0).float(), y=batch["mask"])
        dice = float(self.metric.aggregate().item())
        self.metric.reset()
        return dice


def _monai_augmentation(mirror_axis: int) -> Any:
    """The default augmentation in MONAI's transforms: same kinds, limits and odds."""
    from monai import transforms as T

    modes, degree = ("bilinear", "nearest"), torch.pi / 180
    limits = {"rotate_range": 15 * degree, "scale_range": 0.15, "translate_range": 4.0}
    field = {"spacing": (10, 10), "magnitude_range": (0, 1.6)}
    return T.Compose(
        [
            T.EnsureTyped(BOTH),
            T.RandFlipd(BOTH, prob=0.5, spatial_axis=mirror_axis),
            T.RandAffined(BOTH, prob=0.7, mode=modes, padding_mode="zeros", **limits),
            T.Rand2DElasticd(BOTH, prob=0.3, mode=modes, **field),
            T.RandAdjustContrastd("image", prob=0.7, gamma=(0.77, 1.3)),
            T.RandScaleIntensityd("image", prob=0.7, factors=0.2),
            T.RandShiftIntensityd("image", prob=0.7, offsets=0.1),
            T.RandGaussianNoised("image", prob=0.2, std=0.04),
            T.RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.3, 0.8), sigma_y=(0.3, 0.8)),
        ]
    )


def _items(cache: Cache, rows: Rows) -> list[dict[str, torch.Tensor]]:
    images = torch.from_numpy(cache.images[0][rows]).float()[:, None] / 255
    masks = torch.from_numpy(cache.masks(rows)).float()[:, None]
    return [{"image": image, "mask": mask} for image, mask in zip(images, masks, strict=True)]


def monai_scores(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """Dice, HD95 and surface Dice of masks (S, H, W), under the names that we give them."""
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    masks = [torch.from_numpy(mask).float()[None, None] for mask in (prediction, truth)]
    whole = {"include_background": True, "spacing": spacing_mm}
    return {
        "dice": compute_dice(*masks).item(),
        "hd95_mm": compute_hausdorff_distance(*masks, percentile=95, **whole).item(),
        "nsd_2mm": compute_surface_dice(*masks, [TOLERANCE_MM], **whole).item(),
    }

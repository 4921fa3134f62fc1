"""The training script that most tutorials end with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.references.cached import usual_augmentation
from benchmarks.references.slice_files import SliceFiles
from seglab.core.config import RunConfig
from seglab.models import build_model

WORKERS = 2


class TutorialScript:
    """One h5 file an item, float32, two workers, a loss read every step.

    Args:
        config: of the run it stands beside; its network gets one channel.
        train: files trained on in an epoch.
        validation: files validated on after it.
        shape: (h, w) every slice is resized to, before it is scaled to [0, 1].
        mirror_axis: of the slices as they are in the files.
    """

    def __init__(
        self,
        config: RunConfig,
        train: Sequence[Path],
        validation: Sequence[Path],
        shape: tuple[int, int],
        mirror_axis: int,
    ) -> None:
        self.network, batch_size = build_model(config.model, 1, shape), config.train.batch_size
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        self.loss = nn.BCEWithLogitsLoss()
        resize = A.Resize(*shape)
        scale = A.Lambda(image=_to_unit_range)
        training = SliceFiles(train, A.Compose([resize, scale, usual_augmentation(mirror_axis)]))
        self.train_loader = DataLoader(
            training, batch_size, shuffle=True, num_workers=WORKERS, drop_last=True
        )
        self.validation_loader = DataLoader(
            SliceFiles(validation, A.Compose([resize, scale])), batch_size, num_workers=WORKERS
        )

    def __call__(self) -> float:
        """Train and validate one epoch; returns the mean Dice of the validation batches."""
        self.network.train()
        total = 0.0
        for images, masks in self.train_loader:
            self.optimizer.zero_grad()
            loss = self.loss(self.network(images), masks)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        self.network.eval()
        scores: list[float] = []
        with torch.no_grad():
            for images, masks in self.validation_loader:
                predicted = torch.sigmoid(self.network(images)) > 0.5
                overlap = (predicted * masks).sum()
                scores.append((2 * overlap / (predicted.sum() + masks.sum() + 1e-6)).item())
        return sum(scores) / len(scores)


def _to_unit_range(image: Any, **_: Any) -> Any:
    # A.Normalize leaves -1e-9, of which RandomGamma makes NaN.
    return (image - image.min()) / (image.max() - image.min() + 1e-8)

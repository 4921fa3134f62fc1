"""One h5 file a slice, read whole, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

Sample = tuple[np.ndarray, np.ndarray]


def read_all(paths: Sequence[Path]) -> None:
    """Read ``image[:]`` and ``mask[:]`` of every file."""
    for path in paths:
        with h5py.File(path, "r") as file:
            file["image"][:]
            file["mask"][:]


class SliceFiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The Dataset that comes with every notebook about these files.

    Args:
        paths: one h5 file a slice.
        transform: changes image (H, W) float32 and mask (H, W) float32 together.
    """

    def __init__(
        self, paths: Sequence[Path], transform: Callable[..., dict[str, Any]] | None = None
    ) -> None:
        self.paths = list(paths)
        self.transform = transform

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

"""Small volumes in the layouts of the real sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

Volumes = dict[str, tuple[np.ndarray, np.ndarray]]
"""Patient id → image (S, H, W), mask (S, H, W)."""


def brain_volume(
    seed: int, shape: tuple[int, int, int] = (6, 60, 60), background: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """An off-centre ellipsoid of noise with a lesion; its first slice is empty."""
    stream = np.random.default_rng(seed)
    slices, height, width = shape
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    cy, cx = height / 2 + stream.integers(-4, 5), width / 2 + stream.integers(-4, 5)
    radius = 0.3 * min(height, width)
    brain = (np.hypot((y - cy) / 1.2, x - cx) < radius) & (z > 0)
    lesion = (np.hypot(y - cy - 4, x - cx + 3) < stream.uniform(2, 6)) & (z > 1) & (z < slices - 1)
    image = np.full(shape, background, np.float32)
    image[brain] = stream.normal(200, 30, brain.sum()) + 100 * lesion[brain]
    return image, (lesion & brain).astype(np.uint8)


@pytest.fixture
def volumes() -> Volumes:
    return {f"BraTS20_Training_{i:03d}": brain_volume(i) for i in range(1, 6)}


@pytest.fixture
def write_nifti() -> Callable[[Path, Volumes], Path]:
    def write(root: Path, volumes: Volumes) -> Path:
        for name, (image, mask) in volumes.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for part, array in (("flair", image), ("seg", mask)):
                data = nib.Nifti1Image(np.moveaxis(array, 0, -1), np.eye(4))
                nib.save(data, root / name / f"{name}_{part}.nii")
        return root

    return write


@pytest.fixture
def write_h5() -> Callable[[Path, Volumes], Path]:
    def write(root: Path, volumes: Volumes) -> Path:
        """Every channel and slice z-scored with its background, as the Kaggle set has them."""
        root.mkdir(parents=True, exist_ok=True)
        for volume, (images, masks) in enumerate(volumes.values(), start=1):
            for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
                scored = (image - image.mean(dtype=float)) / (image.std(dtype=float) or 1)
                with h5py.File(root / f"volume_{volume}_slice_{index}.h5", "w") as file:
                    file["image"] = np.repeat(scored[..., None], 4, axis=-1).astype(float)
                    file["mask"] = np.stack([mask, 0 * mask, 0 * mask], axis=-1)
        return root

    return write

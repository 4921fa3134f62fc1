"""A head with its skull on is told from a brain that was taken out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from seglab.data.skull import SKULL, skull_fall


def head(skull: bool, size: int = 96, bone: float = 0.3, seed: int = 0) -> np.ndarray:
    """Five slices of brain, about 1, and around it CSF-free bone and scalp of 1.5."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=radius.shape), 2)
    brain = 1 + 0.1 * noise / noise.std()
    image = np.where(radius < 0.8, brain, np.where(radius < 0.9, bone, 1.5) if skull else 0)
    image[radius > 1] = 0
    return np.stack([image] * 5).astype(np.float32)


@given(scale=st.floats(0.01, 3000), shift=st.floats(-500, 500), size=st.integers(64, 160))
def test_only_the_skull_makes_it_fall_whatever_the_scale(
    scale: float, shift: float, size: int
) -> None:
    assert skull_fall(scale * head(True, size) + shift) > 2 * SKULL
    assert skull_fall(scale * head(False, size) + shift) < SKULL / 2


def test_the_fall_is_from_scalp_to_bone() -> None:
    for bone in (0.1, 0.5):
        assert skull_fall(head(True, 160, bone)) == pytest.approx(1.5 - bone, abs=0.1)


def test_without_a_head_nothing_is_known() -> None:
    assert np.isnan(skull_fall(np.zeros((3, 32, 32), np.float32)))


@pytest.mark.real_data
def test_real_volumes_of_both_kinds(shared_data: Path) -> None:
    import nibabel as nib

    for path in sorted(shared_data.glob("brats20_nifti/*/*/*_flair.nii.gz")):
        volume = np.asarray(nib.load(path).dataobj, np.float32)
        assert skull_fall(np.moveaxis(volume, -1, 0)) < SKULL, path.name
    for folder in sorted(shared_data.glob("lgg_tif/kaggle_3m/TCGA*")):
        files = [path for path in folder.glob("*.tif") if "mask" not in path.name]
        files.sort(key=lambda path: int(path.stem.rpartition("_")[2]))
        stack = np.stack([np.array(Image.open(path)) for path in files])
        for channel in (0, 1):
            assert skull_fall(stack[..., channel]) > SKULL, (folder.name, channel)

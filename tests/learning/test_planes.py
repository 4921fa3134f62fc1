"""Coronal and sagittal slices: what is trained on them, and where their masks lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.core.study import build_run
from seglab.data.open import open_data
from seglab.learning.training import Trainer, fit
from seglab.studies.prediction import Predictions, predict
from seglab.studies.sealed_test import _digest
from tests.learning.bundles import CPU, make_bundle

Stored = Callable[[np.ndarray], np.ndarray]
AS_CORONAL: Stored = lambda a: a.transpose(0, 2, 1)[:, ::-1]  # noqa: E731  left, inferior, posterior
AS_SAGITTAL: Stored = lambda a: a.transpose(1, 2, 0)[:, ::-1]  # noqa: E731  posterior, inferior, left


def patient(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask (x, y, z), stored left, posterior, superior: a lopsided head, one lesion."""
    stream = np.random.default_rng(seed)
    at = np.stack(np.mgrid[:40, :44, :32]) - np.array([19, 22, 15])[:, None, None, None]
    brain = (at**2 / np.array([225, 300, 144])[:, None, None, None]).sum(axis=0) < 1
    centre = stream.integers(-6, 7, 3)[:, None, None, None]
    lesion = brain & (((at - centre) ** 2).sum(axis=0) < stream.integers(9, 30))
    image = np.where(brain, stream.integers(100, 300, brain.shape) + 2 * at[0] + 300 * lesion, 0)
    return image.astype(np.float32), lesion.astype(np.uint8)


def write(root: Path, stored: Stored = lambda a: a, affine: Any = None, patients: int = 6) -> Path:
    for number in range(patients):
        name = f"BraTS20_Training_{number + 1:03d}"
        (root / name).mkdir(parents=True)
        for part, values in zip(("flair", "seg"), patient(number), strict=True):
            file = nib.Nifti1Image(stored(values), np.eye(4) if affine is None else affine)
            nib.save(file, root / name / f"{name}_{part}.nii")
    return root


def config(root: Path, plane: str = "axial", **overrides: Any) -> RunConfig:
    data = {"source": "brats-nifti", "root": str(root), "cache": str(root.parent / "cache")}
    return build_run(
        {
            "name": "planes",
            "data": {**data, "image_size": 32, "plane": plane, "context": 1},
            "split": {"fractions": [0.5, 0.3, 0.2]},
            "model": {"name": "unet", "base_channels": 2, "depth": 2},
            "train": {"epochs": 2, "samples_per_epoch": 16, "threads": 1, "device": "cpu"},
            **overrides,
        }
    )


def train(run: RunConfig) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    data = open_data(run, warn=False)
    trainer = Trainer(run, data.cache, data.split.train, CPU)
    results = list(fit(trainer, data.split.val))
    figures = [{k: v for k, v in one.metrics.items() if "seconds" not in k} for one in results]
    return trainer.network.state_dict(), figures


@pytest.mark.parametrize(
    ("plane", "stored", "augment"),
    [("coronal", AS_CORONAL, "default"), ("sagittal", AS_SAGITTAL, "affine")],
)
def test_a_plane_is_trained_as_volumes_whose_axes_were_permuted(
    tmp_path: Path, plane: str, stored: Stored, augment: str
) -> None:
    """To the bit: weights, losses and scores, the mirror and the neighbours included."""
    files, permuted = write(tmp_path / "files"), write(tmp_path / "permuted", stored)
    weights, figures = train(config(files, plane, augment=augment))
    expected, told = train(config(permuted, augment=augment))
    assert figures == told
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    axial, _ = train(config(files, augment=augment))
    assert not all(torch.equal(weights[name], axial[name]) for name in weights)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_cached_plane_holds_the_truth_and_the_seal_of_the_files(
    tmp_path: Path, plane: str
) -> None:
    root = write(tmp_path / "files")
    cache = open_data(config(root, plane), warn=False).cache
    axial = open_data(config(root), warn=False)
    for name in axial.split.train:
        one = cache.by_id[name]
        truth = np.moveaxis(patient(int(name[-3:]) - 1)[1], -1, 0)
        assert np.array_equal(cache.native_mask(one), truth)
        assert np.array_equal(cache.native_labels(one) > 0, truth > 0)
        assert _digest([one]) == _digest([axial.cache.by_id[name]])
    mirrored = open_data(config(root, plane, augment="mirror"), warn=False).cache
    assert mirrored.flip_axis == (None if plane == "sagittal" else 0)


class Bright(torch.nn.Module):
    """Marks what is brighter than the brain."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image[:, :1] - 0.5) * 40


def predicted(folder: Path, spacing: tuple[float, ...], codes: str, **card: Any) -> Predictions:
    """Predict a head whose voxels have this spacing along L, P, S, stored along ``codes``."""
    scan = nib.Nifti1Image(patient(0)[0], np.diag([-spacing[0], -spacing[1], spacing[2], 1]))
    there = nib.orientations.axcodes2ornt(tuple(codes))
    turn = nib.orientations.ornt_transform(nib.io_orientation(scan.affine), there)
    nib.save(scan.as_reoriented(turn), folder / "case_flair.nii.gz")
    bundle = make_bundle("flair", **card)
    object.__setattr__(bundle.predictor, "network", Bright())
    return predict(bundle, [folder / "case_flair.nii.gz"], folder / "out")


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("spacing", "codes"), [((1, 1, 1), "LPS"), ((1, 1, 2.5), "SAR")])
def test_a_mask_lies_where_the_tumour_does(
    tmp_path: Path, plane: str, spacing: tuple[float, ...], codes: str
) -> None:
    from seglab.data.cache import CacheSettings

    settings = CacheSettings(64, "brain", "zscore", "volume", plane=plane)
    found = predicted(tmp_path, spacing, codes, settings=settings, target="whole")
    (one,) = found.outputs
    truth = nib.Nifti1Image(patient(0)[1], np.diag([-spacing[0], -spacing[1], spacing[2], 1]))
    mask, truth = (
        np.asarray(nib.as_closest_canonical(image).dataobj) > 0
        for image in (nib.load(one.mask), truth)
    )
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert dice > 0.9
    assert one.volume_ml == pytest.approx(mask.sum() * np.prod(spacing) / 1000)


def test_planes_that_cannot_be_cut_are_refused_with_the_reason(
    tmp_path: Path, shared_data: Path
) -> None:
    thick = write(tmp_path / "files", affine=np.diag([-1, -1, 5, 1.0]), patients=3)
    with pytest.raises(UserError, match=r"coronal slices.*5 mm apart at 1 mm.*too thick"):
        open_data(config(thick, "coronal"), warn=False)
    slices = {"source": "brats-h5", "root": str(shared_data / "brats20_h5"), "plane": "sagittal"}
    run = config(thick, data={**slices, "cache": str(tmp_path / "cache"), "on_bad_file": "skip"})
    with pytest.raises(UserError, match=r"no readable patient.*scattered"):
        open_data(run, warn=False)

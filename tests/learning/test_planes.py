"""Coronal and sagittal slices: what is trained on them, and where their masks lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.core.study import build_run
from seglab.data.cache import CacheSettings
from seglab.data.open import open_data
from seglab.data.sealed import SealedCache
from seglab.learning.bundle import ModelBundle, as_volume
from seglab.learning.operating_point import OperatingPoint
from seglab.learning.training import Trainer, fit
from seglab.studies.prediction import predict
from seglab.studies.sealed_test import _digest
from tests.learning.bundles import make_bundle
from tests.learning.trainers import figures, same_weights, trainer_of

AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Of a volume stored left, posterior, superior: rows, columns and slices of a plane."""
SETTINGS = CacheSettings(64, "brain", "zscore", "volume")
SHAPES = {"coronal": (64, 64), "sagittal": (64, 64)}
MODEL = {"name": "unet", "base_channels": 2, "depth": 2}


def patient(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask, stored left, posterior, superior: a lopsided head with one lesion."""
    stream = np.random.default_rng(seed)
    at = np.moveaxis(np.mgrid[:40, :44, :32], 0, -1) - (19, 22, 15)
    brain = (at**2 / (225, 300, 144)).sum(axis=-1) < 1
    lesion = brain & (((at - stream.integers(-6, 7, 3)) ** 2).sum(axis=-1) < 20)
    image = stream.integers(100, 300, brain.shape) + 2 * at[..., 0] + 300 * lesion
    return np.where(brain, image, 0).astype(np.float32), lesion.astype(np.uint8)


def write(root: Path, plane: str = "axial", thick: int = 0) -> Path:
    """Six patients whose slices lie in a plane, of the first ``thick`` 5 mm apart."""
    for number in range(6):
        name = f"BraTS20_Training_{number + 1:03d}"
        (root / name).mkdir(parents=True)
        affine = np.diag([-1, -1, 5, 1.0]) if number < thick else np.eye(4)
        for part, values in zip(("flair", "seg"), patient(number), strict=True):
            stored = values.transpose(AXES[plane])
            stored = stored if plane == "axial" else stored[:, ::-1]  # columns run down
            nib.save(nib.Nifti1Image(stored, affine), root / name / f"{name}_{part}.nii")
    return root


def config(root: Path, plane: str = "axial", **overrides: Any) -> RunConfig:
    data = {"source": "brats-nifti", "root": str(root), "cache": str(root.parent / "cache")}
    document = {
        "name": "planes",
        "data": {**data, "image_size": 32, "plane": plane, "context": 1},
        "split": {"fractions": [0.5, 0.5, 0.0]},
        "model": MODEL,
        "train": {"epochs": 2, "samples_per_epoch": 16, "threads": 1, "device": "cpu"},
    }
    return build_run(document | overrides)


def train(run: RunConfig) -> Trainer:
    trainer, data = trainer_of(run)
    assert len(list(fit(trainer, data.split.val))) == 2
    return trainer


@pytest.mark.parametrize(("plane", "augment"), [("coronal", "default"), ("sagittal", "affine")])
def test_a_plane_is_trained_as_volumes_whose_axes_were_permuted(
    tmp_path: Path, plane: str, augment: str
) -> None:
    """To the bit: weights, losses and scores, the mirror and the neighbours included."""
    files, permuted = write(tmp_path / "files"), write(tmp_path / "permuted", plane)
    runs = config(files, plane, augment=augment), config(permuted, augment=augment)
    found, expected, axial = map(train, (*runs, config(files, augment=augment)))
    assert figures(found) == figures(expected)
    assert same_weights(found, expected)
    assert not same_weights(found, axial)
    assert found.cache.flip_axis == (None if plane == "sagittal" else 0)
    for name, one in found.cache.by_id.items():
        truth = np.moveaxis(patient(int(name[-3:]) - 1)[1], -1, 0)
        assert np.array_equal(found.cache.native_labels(one) > 0, truth > 0)
        assert _digest([one]) == _digest([axial.cache.by_id[name]])


class Bright(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image[:, :1] - 0.5) * 40


@pytest.mark.parametrize(
    ("plane", "spacing", "sizes"),
    [(plane, (1, 1, step), (40, 44, 32)) for plane in AXES for step in (1, 2.5)]
    + [("axial", (0.47, 0.47, 5), (512, 512, 31))],
)
def test_a_mask_lies_where_the_tumour_does_without_planes_across_thick_slices(
    tmp_path: Path, plane: str, spacing: Any, sizes: Any
) -> None:
    nearest = np.ix_(*(np.arange(n) * m // n for n, m in zip(sizes, (40, 44, 32), strict=True)))
    image, truth = (one[nearest] for one in patient(0))
    scan = nib.Nifti1Image(image, np.diag([-spacing[0], -spacing[1], spacing[2], 1]))
    nib.save(scan, tmp_path / "case_flair.nii.gz")
    card: dict[str, Any] = {"settings": replace(SETTINGS, plane=plane), "target": "whole"}
    bundle = make_bundle("flair", **card, shapes=SHAPES if plane == "axial" else {})
    bundle = ModelBundle(bundle.card, replace(bundle.predictor, network=Bright()))
    (one,) = predict(bundle, [tmp_path / "case_flair.nii.gz"], tmp_path / "out").outputs
    mask = np.asarray(nib.load(one.mask).dataobj)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    told = "predicted without coronal and sagittal slices: slices 5 mm apart"
    assert any(text.startswith(told) for text in one.warnings) == (spacing[2] == 5)


def test_probabilities_of_planes_are_averaged_on_the_grid_of_the_volume() -> None:
    volume = as_volume(np.moveaxis(patient(0)[0], -1, 0)[None], ("flair",), shared_scale=True)
    card: dict[str, Any] = {"context": 1, "shape": (64, 64), "point": OperatingPoint(mirror=True)}
    settings = [replace(SETTINGS, plane=plane) for plane in AXES]
    each = [make_bundle("flair", settings=one, **card).segment(volume) for one in settings]
    found = make_bundle("flair", settings=SETTINGS, shapes=SHAPES, **card).segment(volume)
    mean = np.mean([one.probability for one in each], axis=0)
    np.testing.assert_allclose(found.probability, mean, atol=1e-6)
    assert np.abs(each[0].probability - mean).max() > 0.01


def test_one_network_is_trained_on_several_planes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, model = write(tmp_path / "files", thick=1), {**MODEL, "planes": list(AXES)}
    run = config(root, model=model)
    cache = open_data(run).cache
    told = "warning: BraTS20_Training_001 has no coronal slices (data.plane): slices 5 mm apart"
    assert told in capsys.readouterr().err
    assert all(isinstance(one, SealedCache) for one in cache.further)
    assert cache.by_id.keys() - cache.further[1].by_id.keys() == {"BraTS20_Training_001"}
    trainer = train(run)
    assert [one.loader.samples for one in trainer.planes] == [5, 5, 6]
    assert trainer.progress.images == 2 * 16
    plain = config(root).hash()
    assert run.hash() != plain == config(root, model={**MODEL, "planes": None}).hash()
    with pytest.raises(UserError, match=r"model\.planes.*axial comes first"):
        config(root, model={"planes": ["coronal"]})
    with pytest.raises(UserError, match=r"data\.plane is coronal"):
        config(root, "coronal", model=model)


def test_planes_that_cannot_be_cut_are_refused_with_the_reason(
    tmp_path: Path, shared_data: Path
) -> None:
    root = write(tmp_path / "files", thick=3)
    with pytest.raises(UserError, match=r"coronal slices.*5 mm apart at 1 mm.*too thick"):
        open_data(config(root, "coronal"), warn=False)
    slices = {"source": "brats-h5", "root": str(shared_data / "brats20_h5"), "plane": "sagittal"}
    run = config(root, data={**slices, "cache": str(tmp_path / "cache"), "on_bad_file": "skip"})
    with pytest.raises(UserError, match=r"no readable patient.*scattered"):
        open_data(run, warn=False)

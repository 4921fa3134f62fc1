"""Coronal and sagittal slices: what is trained on them, and where their masks lie."""

from __future__ import annotations

from collections.abc import Callable
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
from seglab.learning.inference import validate
from seglab.learning.operating_point import OperatingPoint
from seglab.learning.training import Trainer, fit, train_epoch
from seglab.studies.prediction import Predicted, predict
from seglab.studies.sealed_test import _digest
from tests.learning.bundles import CPU, make_bundle

Stored = Callable[[np.ndarray], np.ndarray]
ALL = ["axial", "coronal", "sagittal"]
SETTINGS = CacheSettings(64, "brain", "zscore", "volume")


def as_coronal(values: np.ndarray) -> np.ndarray:
    return values.transpose(0, 2, 1)[:, ::-1]  # left, inferior, posterior


def as_sagittal(values: np.ndarray) -> np.ndarray:
    return values.transpose(1, 2, 0)[:, ::-1]  # posterior, inferior, left


def patient(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask, stored left, posterior, superior: a lopsided head with one lesion."""
    stream = np.random.default_rng(seed)
    at = np.stack(np.mgrid[:40, :44, :32]) - np.array([19, 22, 15])[:, None, None, None]
    brain = (at**2 / np.array([225, 300, 144])[:, None, None, None]).sum(axis=0) < 1
    centre = stream.integers(-6, 7, 3)[:, None, None, None]
    lesion = brain & (((at - centre) ** 2).sum(axis=0) < stream.integers(12, 30))
    image = np.where(brain, stream.integers(100, 300, brain.shape) + 2 * at[0] + 300 * lesion, 0)
    return image.astype(np.float32), lesion.astype(np.uint8)


def write(root: Path, stored: Stored = np.asarray, thick: int = 0) -> Path:
    """Six patients in the layout of BraTS, of the first ``thick`` the slices 5 mm apart."""
    for number in range(6):
        name = f"BraTS20_Training_{number + 1:03d}"
        (root / name).mkdir(parents=True)
        affine = np.diag([-1, -1, 5, 1.0]) if number < thick else np.eye(4)
        for part, values in zip(("flair", "seg"), patient(number), strict=True):
            nib.save(nib.Nifti1Image(stored(values), affine), root / name / f"{name}_{part}.nii")
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
    [("coronal", as_coronal, "default"), ("sagittal", as_sagittal, "affine")],
)
def test_a_plane_is_trained_as_volumes_whose_axes_were_permuted(
    tmp_path: Path, plane: str, stored: Stored, augment: str
) -> None:
    """To the bit: weights, losses and scores, the mirror and the neighbours included."""
    files, permuted = write(tmp_path / "files"), write(tmp_path / "permuted", stored)
    weights, figures = train(config(files, plane, augment=augment))
    expected, told = train(config(permuted, augment=augment))
    assert figures == told
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    axial, _ = train(config(files, augment=augment))
    assert not all(torch.equal(weights[name], axial[name]) for name in weights)


@pytest.mark.parametrize("plane", ALL)
def test_a_cached_plane_holds_the_truth_and_the_seal_of_the_files(
    tmp_path: Path, plane: str
) -> None:
    root = write(tmp_path / "files")
    cache, axial = (open_data(config(root, one), warn=False).cache for one in (plane, "axial"))
    for name, one in cache.by_id.items():
        truth = np.moveaxis(patient(int(name[-3:]) - 1)[1], -1, 0)
        assert np.array_equal(cache.native_mask(one), truth)
        assert np.array_equal(cache.native_labels(one) > 0, truth > 0)
        assert _digest([one]) == _digest([axial.by_id[name]])
    assert cache.flip_axis == (None if plane == "sagittal" else 0)


class Bright(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image[:, :1] - 0.5) * 40


def predicted(
    folder: Path, spacing: tuple[float, ...], codes: str, sizes: tuple[int, ...] = (), **card: Any
) -> tuple[Predicted, np.ndarray, np.ndarray]:
    """Mask of what is bright in a head of these spacings along L, P, S, stored along ``codes``.

    Returns what is told of it, the mask and the lesion.
    """
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1])
    image, lesion = patient(0)
    grids = zip(sizes or image.shape, image.shape, strict=True)
    nearest = np.ix_(*(np.arange(n) * m // n for n, m in grids))
    scan, truth = (nib.Nifti1Image(one[nearest], affine) for one in (image, lesion))
    there = nib.orientations.axcodes2ornt(tuple(codes))
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), there)
    nib.save(scan.as_reoriented(turn), folder / "case_flair.nii.gz")
    bundle = make_bundle("flair", **{"settings": SETTINGS, "target": "whole"} | card)
    bundle = ModelBundle(bundle.card, replace(bundle.predictor, network=Bright()))
    (one,) = predict(bundle, [folder / "case_flair.nii.gz"], folder / "out").outputs
    mask, truth = (nib.as_closest_canonical(each) for each in (nib.load(one.mask), truth))
    return one, *(np.asarray(each.dataobj) > 0 for each in (mask, truth))


@pytest.mark.parametrize("plane", ALL)
@pytest.mark.parametrize(("step", "codes"), [(1, "LPS"), (2.5, "SAR")])
def test_a_mask_lies_where_the_tumour_does(
    tmp_path: Path, plane: str, step: float, codes: str
) -> None:
    settings = replace(SETTINGS, plane=plane)
    one, mask, truth = predicted(tmp_path, (1, 1, step), codes, settings=settings)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    assert one.volume_ml == pytest.approx(mask.sum() * step / 1000)


def test_planes_across_thick_slices_are_left_out_of_a_prediction(tmp_path: Path) -> None:
    shapes = {"coronal": (64, 64), "sagittal": (64, 64)}
    told: list[Predicted] = []
    for planes in ({}, shapes):
        one, mask, truth = predicted(
            tmp_path, (0.47, 0.47, 5), "LPS", (512, 512, 31), shapes=planes
        )
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
        told.append(one)
    assert "predicted without coronal and sagittal slices: slices 5 mm" in told[1].warnings[0]
    assert told[0].volume_ml == told[1].volume_ml


def test_probabilities_of_planes_are_averaged_on_the_grid_of_the_volume() -> None:
    volume = as_volume(np.moveaxis(patient(0)[0], -1, 0)[None], ("flair",), shared_scale=True)
    point = OperatingPoint(0.5, mirror=True)
    card: dict[str, Any] = {"context": 1, "shape": (64, 64), "point": point}
    each = [
        make_bundle("flair", settings=replace(SETTINGS, plane=plane), **card).segment(volume)
        for plane in ALL
    ]
    shapes = dict.fromkeys(ALL[1:], (64, 64))
    found = make_bundle("flair", settings=SETTINGS, shapes=shapes, **card).segment(volume)
    mean = np.mean([one.probability for one in each], axis=0)
    np.testing.assert_allclose(found.probability, mean, atol=1e-6)
    assert np.abs(each[0].probability - mean).max() > 0.01


def test_one_network_is_trained_on_several_planes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "files", thick=1)
    model = {"name": "unet", "base_channels": 2, "depth": 2, "planes": ALL}
    run = config(root, model=model, split={"fractions": [0.5, 0.5, 0.0]})
    data = open_data(run)
    told = "warning: BraTS20_Training_001 has no coronal slices (data.plane): slices 5 mm apart"
    assert told in capsys.readouterr().err
    coronal, sagittal = data.cache.further
    assert isinstance(coronal, SealedCache)
    assert data.cache.by_id.keys() - sagittal.by_id.keys() == {"BraTS20_Training_001"}
    trainer = Trainer(run, data.cache, data.split.train, CPU)
    drawn = [one.loader.samples for one in trainer.planes]
    assert drawn == [5, 5, 6]
    train_epoch(trainer)
    assert trainer.progress.images == sum(drawn)
    scores, _ = validate(trainer.predictor, data.cache, data.split.val, 0.5)
    assert len(scores) == len(data.split.val)
    plain = config(root).hash()
    assert run.hash() != plain == config(root, model={**model, "planes": None}).hash()
    for planes, said in ((["coronal"], "axial comes first"), (["axial", "oblique"], "coronal")):
        with pytest.raises(UserError, match=rf"model\.planes.*{said}"):
            config(root, model={"planes": planes})
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

"""What a cache holds: levels to half a step, masks to the bit, each channel read once."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seglab.data.cache import COVERED, Cache, CacheSettings, open_cache
from seglab.data.geometry import crop, to_native
from seglab.data.labels import target_mask
from seglab.data.normalise import brain_mask
from seglab.data.sources.base import open_source
from seglab.data.volume import Volume, turn
from tests.data.memory import MemorySource, memory_source, memory_volume, prepare

ALL = ("flair", "t1", "t1ce", "t2")
SETTINGS = CacheSettings(60, "brain", "zscore", "auto")


Fill = Callable[..., Cache]


@pytest.fixture
def source(tmp_path: Path) -> MemorySource:
    return memory_source(tmp_path / "data")


@pytest.fixture
def fill(source: MemorySource, tmp_path: Path) -> Fill:
    """Prepare some modalities of the source, or of another, below a folder of the test."""

    def fill(
        *modalities: str, of: Any = source, below: str = "cache", target: str = "whole", **more: Any
    ) -> Cache:
        keys = {"modalities": modalities or ("flair",), "target": target}
        return prepare(of, dataclasses.replace(SETTINGS, **more), tmp_path / below, **keys)[0]

    return fill


@pytest.mark.parametrize(
    ("size", "crop", "target"),
    [(32, "brain", "core"), (60, "brain", "enhancing"), (96, "none", "whole")],
)
def test_native_masks_come_back_bit_by_bit(
    source: MemorySource, fill: Fill, size: int, crop: str, target: str
) -> None:
    source.volumes = {**source.volumes, "odd": memory_volume("odd", 8, shape=(6, 47, 53))}
    cache = fill(target=target, image_size=size, crop=crop)
    for name, volume in source.volumes.items():
        patient, mask = cache.by_id[name], target_mask(volume.labels, target)
        assert mask.any()
        assert (cache.native_mask(patient) == mask).all()
        assert (cache.row_patient[patient.rows] == cache.patients.index(patient)).all()
        assert (cache.row_tumour_px[patient.rows] == mask.sum((1, 2))).all()
        assert (patient.whole_px == (volume.labels > 0).sum((1, 2))).all()


def assert_restored(cache: Cache, volume: Volume, brain: np.ndarray) -> None:
    """At full size every modality is the source's, to half a step, and 0 outside the brain."""
    patient = cache.by_id[volume.patient_id]
    for number, image in enumerate(volume.images):
        q = cache.native_image(patient, number).astype(float)
        assert ((q > 0) == brain[number]).all()
        offset, step = cache.scale[number, patient.rows].T[:, :, None, None]
        kept = (q > 1) & (q < 255)
        assert kept.sum() > 0.98 * brain[number].sum()
        assert (np.abs(offset + q * step - image) / step)[kept].max() <= 0.51


@pytest.mark.parametrize("scope", ["slice", "volume"])
@pytest.mark.parametrize("method", ["zscore", "robust", "percentile"])
def test_at_full_size_every_modality_is_the_source_to_half_a_step(
    source: MemorySource, fill: Fill, method: str, scope: str
) -> None:
    cache = fill(*ALL, normalise=method, normalise_scope=scope)
    for patient in cache.patients:
        volume = source.volumes[patient.patient_id]
        assert_restored(cache, volume, volume.images != 0)
        assert (patient.brain_px == (volume.images[0] != 0).sum((1, 2))).all()


@pytest.mark.parametrize(("size", "target"), [(45, "whole"), (96, "core")])
def test_cached_masks_lie_on_cached_images(fill: Fill, size: int, target: str) -> None:
    """The lesion is brighter than the rest of the brain on FLAIR, at every scale."""
    cache = fill(target=target, image_size=size)
    image, inside = cache.images[0], cache.masks(slice(None)) > 0
    assert image[inside].mean() > image[(image > 60) & ~inside].mean() + 40
    for patient in cache.patients:
        back = to_native(cache.masks(patient.rows).astype(np.float32), patient) >= 0.5
        truth = cache.native_mask(patient) > 0
        assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.8


@pytest.mark.parametrize(
    ("factor", "plane", "target"),
    [
        *((1, "axial", "whole"), (2, "axial", "enhancing"), (2, "sagittal", "whole")),
        *((3, "axial", "core"), (3, "coronal", "enhancing")),
    ],
)
def test_coverage_is_the_mean_of_the_native_mask(
    source: MemorySource, fill: Fill, factor: int, plane: str, target: str
) -> None:
    source.volumes = {
        name: memory_volume(name, seed, shape=(40, 96, 96)) for seed, name in enumerate("abcd")
    }
    cache = fill(image_size=96 // factor, plane=plane, target=target)
    rows = np.random.default_rng(0).permutation(len(cache.row_slice))
    shares = np.empty((len(rows), *cache.shape))
    shares[rows] = cache.coverage(rows) / COVERED
    for patient in cache.patients:
        mask = target_mask(source.volumes[patient.patient_id].labels, target)
        window = crop(turn(mask, *patient.axes[::-1]), patient.box)
        expected = torch.nn.functional.avg_pool2d(torch.from_numpy(window).double(), factor)
        assert expected.any()
        np.testing.assert_allclose(shares[patient.rows], expected, rtol=0, atol=0.51 / COVERED)
    assert (shares[cache.masks(slice(None)) > 0] > 0).all()


def test_coverage_worked_by_hand(source: MemorySource, fill: Fill) -> None:
    """Edges through half a pixel and through a corner; at any scale the area is kept."""
    volume = memory_volume("square", 0, shape=(3, 64, 64))
    volume.labels[:] = 0
    volume.labels[1, 20:31, 20:31] = 2
    source.volumes = {name: dataclasses.replace(volume, patient_id=name) for name in "abc"}
    cache = fill(image_size=32, crop="none")
    expected = np.zeros((3, 32, 32))
    expected[1, 10:16, 10:16] = [[1, 1, 1, 1, 1, 0.5]] * 5 + [[0.5, 0.5, 0.5, 0.5, 0.5, 0.25]]
    shares = cache.coverage(np.arange(3)) / COVERED
    np.testing.assert_allclose(shares, expected, rtol=0, atol=0.51 / COVERED)
    for size in (37, 45, 50):
        shares = fill(image_size=size, crop="none").coverage(np.arange(3)) / COVERED
        assert shares.sum() * (64 / size) ** 2 == pytest.approx(11 * 11, rel=2e-3)


def test_a_cache_grows_and_reads_no_channel_twice(source: MemorySource, fill: Fill) -> None:
    caches = []
    for modalities in (("flair",), ("t1ce", "flair"), ("t1ce",), ALL, ("t2", "t1")):
        before = {name for _, name in source.reads}
        target = "core" if modalities == ("t1ce",) else "whole"
        caches.append(fill(*modalities, target=target))
        assert {name for _, name in source.reads} - before <= {*modalities, "labels"}
    assert len({cache.path for cache in caches}) == 1
    assert len(source.reads) == 5 * 5
    assert set(source.reads.values()) == {1}
    assert (caches[1].images[1][:] == caches[0].images[0]).all()
    assert len({cache.data_hash for cache in caches}) == 5


def test_the_window_does_not_depend_on_what_a_run_names(source: MemorySource, fill: Fill) -> None:
    # T1ce shows more than FLAIR does.
    source.volumes["P001"].images[2, :, 2:58, 2:58] = 7.0
    first, second = fill("t1ce", below="a"), fill("flair", "t1", below="b")
    assert [p.box for p in first.patients] == [p.box for p in second.patients]
    later = fill("t1ce", below="b")
    assert later.data_hash == first.data_hash
    assert (later.images[0][:] == first.images[0]).all()


def test_the_reference_is_a_modality_that_all_have(source: MemorySource, fill: Fill) -> None:
    sets = {"A": ("flair", "t1ce"), "B": ("t1ce", "t2"), "C": ("t1ce",)}
    source.volumes = {name: memory_volume(name, 1, found) for name, found in sets.items()}
    cache = fill("t1ce")
    assert cache.reference == "t1ce"
    assert len(cache.patients) == 3


def test_a_volume_is_normalised_by_what_slices_share(source: MemorySource, fill: Fill) -> None:
    for volume in source.volumes.values():
        volume.images[0, 3] *= 2
    slices = dataclasses.replace(source.volumes["P002"], shared_scales=(False,) * 4)
    source.volumes = {"P001": source.volumes["P001"], "P002": slices}
    auto, by_slice = fill(), fill(normalise_scope="slice")
    together, apart = (auto.images[0][patient.rows] for patient in auto.patients)
    assert together[3][together[3] > 0].mean() > 1.3 * together[4][together[4] > 0].mean()
    assert (apart == by_slice.images[0][auto.patients[1].rows]).all()


def test_volumes_without_any_tumour_or_brain(source: MemorySource, fill: Fill) -> None:
    source.volumes = {"P": memory_volume("P", 1)}
    source.volumes["P"].images[:], source.volumes["P"].labels[:] = 0, 0
    cache = fill(*ALL)
    assert not any(image.any() for image in cache.images)
    assert not cache.native_mask(cache.patients[0]).any()
    assert cache.native_image(cache.patients[0]).shape == (6, 60, 60)


def test_changed_files_settings_or_patients_make_another_cache(
    source: MemorySource, fill: Fill, tmp_path: Path
) -> None:
    first = fill()
    again, was_found = prepare(source, SETTINGS, tmp_path / "cache")
    assert was_found
    assert (first.path, first.data_hash) == (again.path, again.data_hash)
    fewer, _ = prepare(source, SETTINGS, tmp_path / "cache", patients=source.patients()[:3])
    assert len(fewer.patients) == 3
    caches = [first, fewer, fill(normalise="robust")]
    (source.root / "P001-t1").write_bytes(b"")
    caches.append(fill())
    assert len({cache.path for cache in caches}) == 4
    assert caches[0].data_hash == caches[3].data_hash
    assert len({cache.data_hash for cache in caches}) == 3


def test_content_has_one_hash_wherever_and_however_it_is_made(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, other times, worker processes: the same bytes; one pixel changes it."""
    here = fill("t1", "flair")
    shutil.copytree(here.path, tmp_path / "moved", copy_function=shutil.copyfile)
    assert open_cache(tmp_path / "moved", ("t1", "flair")).data_hash == here.data_hash
    monkeypatch.setattr("seglab.data.prepare.SMALL_BYTES", 0)
    copy = memory_source(tmp_path / "elsewhere")
    there, _ = prepare(copy, SETTINGS, tmp_path / "other", modalities=("t1", "flair"), workers=2)
    assert there.path.name != here.path.name
    assert there.data_hash == here.data_hash
    copy.volumes["P001"].labels[3, 30, 30] ^= 1
    assert fill("t1", "flair", of=copy, below="changed").data_hash != here.data_hash


@pytest.mark.real_data
def test_real_volumes_lose_nothing_but_steps(shared_data: Path, tmp_path: Path) -> None:
    source, names = open_source("brats-nifti", shared_data / "brats20_nifti"), ("flair", "t1ce")
    chosen = [p for p in source.patients() if p.patient_id[-3:] in ("132", "237")]
    settings = dataclasses.replace(SETTINGS, image_size=240)
    cache, _ = prepare(source, settings, tmp_path, modalities=names, patients=chosen)
    assert cache.bytes / cache.slices < 80_000
    for found in chosen:
        volume, patient = source.read(found, names), cache.by_id[found.patient_id]
        assert (cache.native_mask(patient) == (volume.labels > 0)).all()
        brain = [brain_mask(image, shared_scale=True) for image in volume.images]
        assert_restored(cache, volume, np.stack(brain))
        enhancing = cache.native_image(patient, 1)[volume.labels == 3]
        assert (enhancing == 255).mean() < 1e-4

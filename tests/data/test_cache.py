"""What a cache holds: levels to half a step, masks to the bit, each channel read once."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.data.cache import Cache, CacheSettings, open_cache
from seglab.data.geometry import to_native
from seglab.data.labels import target_mask
from seglab.data.normalise import brain_mask
from seglab.data.sources.base import open_source
from tests.data.memory import MemorySource, memory_source, memory_volume, prepare

ALL = ("flair", "t1", "t1ce", "t2")
SETTINGS = CacheSettings(60, "brain", "zscore", "auto")


def fill(
    source: Any,
    root: Path,
    modalities: Sequence[str] = ("flair",),
    target: str = "whole",
    **more: Any,
) -> Cache:
    settings = dataclasses.replace(SETTINGS, **more)
    return prepare(source, settings, root, modalities=modalities, target=target)[0]


@pytest.fixture
def source(tmp_path: Path) -> MemorySource:
    return memory_source(tmp_path / "data")


@pytest.mark.parametrize(
    ("size", "crop", "target"),
    [
        (32, "brain", "core"),
        (45, "none", "whole"),
        (60, "brain", "enhancing"),
        (96, "none", "core"),
    ],
)
def test_native_masks_come_back_bit_by_bit(
    source: MemorySource, tmp_path: Path, size: int, crop: str, target: str
) -> None:
    odd = memory_volume("odd", 8, shape=(6, 47, 53))
    source = MemorySource(source.root, {**source.volumes, "odd": odd})
    cache = fill(source, tmp_path / "cache", target=target, image_size=size, crop=crop)
    for name, volume in source.volumes.items():
        patient, mask = cache.by_id[name], target_mask(volume.labels, target)
        assert mask.any()
        assert (cache.native_mask(patient) == mask).all()
        assert (patient.tumour_px == mask.sum((1, 2))).all()
        assert (patient.whole_px == (volume.labels > 0).sum((1, 2))).all()


@pytest.mark.parametrize("method", ["zscore", "robust", "percentile"])
def test_at_full_size_every_modality_is_the_source_to_half_a_step(
    source: MemorySource, tmp_path: Path, method: str
) -> None:
    cache = fill(source, tmp_path / "cache", ALL, normalise=method)
    for patient in cache.patients:
        volume = source.volumes[patient.patient_id]
        for number, image in enumerate(volume.images):
            q = cache.native_image(patient, number).astype(float)
            assert ((q > 0) == (image != 0)).all()
            offset, step = cache.scale[number, patient.rows].T[:, :, None, None]
            kept = (q > 1) & (q < 255)
            assert kept.sum() > 0.98 * (image != 0).sum()
            assert (np.abs(offset + q * step - image) / step)[kept].max() <= 0.501
        assert (patient.brain_px == (volume.images[0] != 0).sum((1, 2))).all()


def test_rows_say_whose_they_are_and_what_they_hold(source: MemorySource, tmp_path: Path) -> None:
    cache = fill(source, tmp_path / "cache", ("t2", "flair"), image_size=48)
    assert [image.shape for image in cache.images] == [(30, *cache.shape)] * 2
    assert cache.masks_packed.shape == (30, cache.shape[0], -(-cache.shape[1] // 8))
    assert [p.patient_id for p in cache.patients] == [p.patient_id for p in source.patients()]
    for number, patient in enumerate(cache.patients):
        assert (cache.row_patient[patient.rows] == number).all()
        assert (cache.row_slice[patient.rows] == np.arange(6)).all()
        assert (cache.row_brain_px[patient.rows] == patient.brain_px).all()
        assert (cache.row_tumour_px[patient.rows] == patient.tumour_px).all()
    rows = np.array([7, 3, 3])
    assert (cache.masks(rows) == cache.masks(slice(0, 30))[rows]).all()


def test_cached_masks_lie_on_cached_images_and_return_to_the_truth(
    source: MemorySource, tmp_path: Path
) -> None:
    """The lesion is brighter than the rest of the brain on FLAIR, at every scale."""
    for size, target in ((45, "whole"), (96, "core")):
        cache = fill(source, tmp_path / "cache", target=target, image_size=size)
        inside = cache.masks(slice(None)) > 0
        brain = cache.images[0] > 60
        assert cache.images[0][inside].mean() > cache.images[0][brain & ~inside].mean() + 40
        for patient in cache.patients:
            back = to_native(cache.masks(patient.rows).astype(np.float32), patient) >= 0.5
            truth = cache.native_mask(patient) > 0
            assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.8


def test_a_cache_grows_by_a_modality_at_a_time_and_reads_no_channel_twice(
    source: MemorySource, tmp_path: Path
) -> None:
    named: tuple[tuple[tuple[str, ...], str], ...] = (
        (("flair",), "whole"),
        (("t1ce", "flair"), "enhancing"),
        (("t1ce",), "core"),
        (ALL, "whole"),
        (("t2", "t1"), "whole"),
    )
    caches = []
    for modalities, target in named:
        before = set(source.reads)
        caches.append(fill(source, tmp_path / "cache", modalities, target))
        new = {name for _, name in source.reads if name not in {m for _, m in before}}
        assert new <= {*modalities, "labels"}
    assert len({cache.path for cache in caches}) == 1
    assert len(source.reads) == 5 * 5
    assert set(source.reads.values()) == {1}
    assert (caches[1].images[1][:] == caches[0].images[0]).all()
    assert len({cache.data_hash for cache in caches}) == 5


def test_the_window_does_not_depend_on_what_a_run_names(
    source: MemorySource, tmp_path: Path
) -> None:
    wide = source.volumes["P001"].images
    wide[2, :, 2:58, 2:58] = 7.0  # T1ce shows more than FLAIR does
    first = fill(source, tmp_path / "a", ("t1ce",))
    second = fill(source, tmp_path / "b", ("flair", "t1"))
    assert [p.box for p in first.patients] == [p.box for p in second.patients]
    later = fill(source, tmp_path / "b", ("t1ce",))
    assert later.data_hash == first.data_hash
    assert (later.images[0][:] == first.images[0]).all()


def test_the_reference_is_the_first_modality_that_all_patients_have(tmp_path: Path) -> None:
    sets = {"A": ("flair", "t1ce"), "B": ("t1ce", "t2"), "C": ("t1ce",)}
    volumes = {name: memory_volume(name, 1, found) for name, found in sets.items()}
    cache = fill(MemorySource(tmp_path / "data", volumes), tmp_path / "cache", ("t1ce",))
    assert cache.reference == "t1ce"
    assert len(cache.patients) == 3


def test_each_volume_is_normalised_by_what_its_slices_share(tmp_path: Path) -> None:
    source = memory_source(tmp_path / "data", 2)
    for volume in source.volumes.values():
        volume.images[0, 3] *= 2
    slices = dataclasses.replace(source.volumes["P002"], shared_scales=(False,) * 4)
    mixed = MemorySource(source.root, {**source.volumes, "P002": slices})
    auto = fill(mixed, tmp_path / "cache")
    by_slice = fill(mixed, tmp_path / "cache", normalise_scope="slice")
    together, apart = (auto.images[0][patient.rows] for patient in auto.patients)
    assert together[3][together[3] > 0].mean() > 1.3 * together[4][together[4] > 0].mean()
    assert (apart == by_slice.images[0][auto.patients[1].rows]).all()


def test_volumes_without_any_tumour_or_brain(tmp_path: Path) -> None:
    volume = memory_volume("P", 1)
    empty = dataclasses.replace(
        volume, images=0 * volume.images, labels=np.zeros_like(volume.labels)
    )
    cache = fill(MemorySource(tmp_path / "data", {"P": empty}), tmp_path / "cache", ALL)
    assert not any(image.any() for image in cache.images)
    assert not cache.native_mask(cache.patients[0]).any()
    assert cache.native_image(cache.patients[0]).shape == (6, 60, 60)


def test_changed_files_settings_or_patients_make_another_cache(
    source: MemorySource, tmp_path: Path
) -> None:
    first, was_filled = prepare(source, SETTINGS, tmp_path / "cache")
    again, was_found = prepare(source, SETTINGS, tmp_path / "cache")
    assert (was_filled, was_found) == (False, True)
    assert (first.path, first.data_hash) == (again.path, again.data_hash)
    fewer, _ = prepare(source, SETTINGS, tmp_path / "cache", patients=source.patients()[:3])
    assert len(fewer.patients) == 3
    caches = [first, fewer, fill(source, tmp_path / "cache", normalise="robust")]
    (source.root / "P001-t1").write_bytes(b"")
    caches.append(fill(source, tmp_path / "cache"))
    assert len({cache.path for cache in caches}) == 4
    assert caches[0].data_hash == caches[3].data_hash
    assert len({cache.data_hash for cache in caches}) == 3


def test_content_has_one_hash_wherever_and_however_it_is_made(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, other times, worker processes: the same bytes; one pixel changes it."""
    here = fill(source, tmp_path / "cache", ("t1", "flair"))
    shutil.copytree(here.path, tmp_path / "moved", copy_function=shutil.copyfile)
    assert open_cache(tmp_path / "moved", ("t1", "flair")).data_hash == here.data_hash
    monkeypatch.setattr("seglab.data.prepare.SMALL_BYTES", 0)
    copy = memory_source(tmp_path / "elsewhere")
    there, _ = prepare(copy, SETTINGS, tmp_path / "other", modalities=("t1", "flair"), workers=2)
    assert there.path.name != here.path.name
    assert there.data_hash == here.data_hash
    copy.volumes["P001"].labels[3, 30, 30] ^= 1
    assert fill(copy, tmp_path / "b", ("t1", "flair")).data_hash != here.data_hash


@pytest.mark.real_data
def test_real_volumes_lose_nothing_but_steps(shared_data: Path, tmp_path: Path) -> None:
    source = open_source("brats-nifti", shared_data / "brats20_nifti")
    chosen = [p for p in source.patients() if p.patient_id[-3:] in ("132", "237")]
    settings = dataclasses.replace(SETTINGS, image_size=240)
    names = ("flair", "t1ce")
    cache, _ = prepare(source, settings, tmp_path, modalities=names, patients=chosen)
    assert cache.bytes / cache.slices < 80_000
    for found in chosen:
        volume, patient = source.read(found, names), cache.by_id[found.patient_id]
        assert (cache.native_mask(patient) == (volume.labels > 0)).all()
        for number, image in enumerate(volume.images):
            brain, q = brain_mask(image, shared_scale=True), cache.native_image(patient, number)
            assert ((q > 0) == brain).all()
            offset, step = cache.scale[number, patient.first]
            kept = (q > 1) & (q < 255)
            assert (np.abs(offset + q[kept] * step - image[kept]) / step).max() <= 0.51
            assert kept.sum() > 0.98 * brain.sum()
        enhancing = cache.native_image(patient, 1)[volume.labels == 3]
        assert (enhancing == 255).mean() < 1e-4

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.core.config import Data
from seglab.core.errors import UserError
from seglab.data.cache import Cache, CacheSettings, open_cache, prepare, to_native
from seglab.data.normalise import brain_mask
from seglab.data.sources import Source, open_source

Volumes = dict[str, tuple[np.ndarray, np.ndarray]]
Write = Callable[[Path, Volumes], Path]


def settings_of(source: Source, **changes: Any) -> CacheSettings:
    settings = CacheSettings.from_config(Data(source="brats-nifti", root=source.root), source)
    return dataclasses.replace(settings, **{"image_size": 60, **changes})


def fill(source: Source, root: Path, **changes: Any) -> Cache:
    return prepare(source, settings_of(source, **changes), root, workers=1)[0]


@pytest.fixture
def source(tmp_path: Path, write_nifti: Write, volumes: Volumes) -> Source:
    return open_source("brats-nifti", write_nifti(tmp_path / "data", volumes))


@pytest.mark.parametrize("crop", ["brain", "none"])
@pytest.mark.parametrize("size", [32, 45, 60, 96])
def test_native_masks_come_back_bit_by_bit(
    source: Source, volumes: Volumes, tmp_path: Path, size: int, crop: str
) -> None:
    cache = fill(source, tmp_path / "cache", image_size=size, crop=crop)
    for name, (_, mask) in volumes.items():
        patient = cache.by_id[name]
        native = cache.native_mask(patient)
        assert native.dtype == np.uint8
        assert (native == mask).all()
        assert (patient.tumour_px == mask.sum((1, 2))).all()


@pytest.mark.parametrize("method", ["zscore", "robust", "percentile"])
def test_at_full_size_the_image_is_the_source_to_half_a_step(
    source: Source, volumes: Volumes, tmp_path: Path, method: str
) -> None:
    cache = fill(source, tmp_path / "cache", normalise=method)
    for name, (image, _) in volumes.items():
        patient = cache.by_id[name]
        q = cache.native_image(patient).astype(float)
        assert ((q > 0) == (image != 0)).all()
        assert (patient.brain_px == (image != 0).sum((1, 2))).all()
        offset, step = cache.scale[patient.rows].T[:, :, None, None]
        kept = (q > 1) & (q < 255)
        assert (np.abs(offset + q * step - image) / step)[kept].max() <= 0.501


def test_rows_say_whose_they_are_and_what_they_hold(source: Source, tmp_path: Path) -> None:
    cache = fill(source, tmp_path / "cache", image_size=48)
    count, height, width = cache.images.shape
    assert count == 30
    assert cache.masks_packed.shape == (count, height, -(-width // 8))
    assert [p.patient_id for p in cache.patients] == [p.patient_id for p in source.patients()]
    for number, patient in enumerate(cache.patients):
        assert (cache.row_patient[patient.rows] == number).all()
        assert (cache.row_slice[patient.rows] == np.arange(6)).all()
        assert (cache.row_brain_px[patient.rows] == patient.brain_px).all()
        assert (cache.row_tumour_px[patient.rows] == patient.tumour_px).all()
        assert patient.contiguous
        assert patient.spacing_mm == (1, 1, 1)
    rows = np.array([7, 3, 3])
    assert (cache.masks(rows) == cache.masks(slice(0, count))[rows]).all()
    assert set(np.unique(cache.masks(slice(0, count)))) == {0, 1}


def test_cached_masks_lie_on_cached_images(source: Source, tmp_path: Path) -> None:
    """The lesion is brighter than the rest of the brain, at every scale."""
    for size in (32, 60, 96):
        cache = fill(source, tmp_path / "cache", image_size=size)
        inside = cache.masks(slice(None)) > 0
        brain = cache.images > 60
        assert cache.images[inside].mean() > cache.images[brain & ~inside].mean() + 40


def test_cached_masks_return_to_where_the_truth_is(source: Source, tmp_path: Path) -> None:
    cache = fill(source, tmp_path / "cache", image_size=45)
    for patient in cache.patients:
        back = to_native(cache.masks(patient.rows).astype(np.float32), patient) >= 0.5
        truth = cache.native_mask(patient) > 0
        assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.85


def test_the_crop_is_smaller_and_all_brain_is_in_it(
    source: Source, volumes: Volumes, tmp_path: Path
) -> None:
    whole = fill(source, tmp_path / "cache", crop="none", image_size=96)
    cropped = fill(source, tmp_path / "cache", image_size=96)
    assert cropped.images[0].size < whole.images[0].size
    for patient in cropped.patients:
        y0, x0, height, width = patient.box
        brain = volumes[patient.patient_id][0] != 0
        assert brain[:, max(y0, 0) : y0 + height, max(x0, 0) : x0 + width].sum() == brain.sum()


def test_frames_that_are_not_square_and_not_alike(
    tmp_path: Path, write_nifti: Write, volumes: Volumes
) -> None:
    odd = {
        name: (image[:, : 50 - i, i:], mask[:, : 50 - i, i:])
        for i, (name, (image, mask)) in enumerate(volumes.items())
    }
    source = open_source("brats-nifti", write_nifti(tmp_path / "odd", odd))
    for crop in ("brain", "none"):
        cache = fill(source, tmp_path / "cache", image_size=48, crop=crop)
        for name, (_, mask) in odd.items():
            assert (cache.native_mask(cache.by_id[name]) == mask).all()


def test_volumes_without_any_tumour_or_brain(tmp_path: Path, write_nifti: Write) -> None:
    empty = np.zeros((2, 20, 20))
    volumes = {"a": (empty.astype(np.float32), empty.astype(np.uint8))}
    source = open_source("brats-nifti", write_nifti(tmp_path / "data", volumes))
    cache = fill(source, tmp_path / "cache", image_size=32)
    assert not cache.images.any()
    assert not cache.native_mask(cache.patients[0]).any()
    assert cache.native_image(cache.patients[0]).shape == (2, 20, 20)


def test_slices_of_h5_files_are_normalised_one_by_one(
    tmp_path: Path, write_h5: Write, write_nifti: Write, volumes: Volumes
) -> None:
    slices = open_source("brats-h5", write_h5(tmp_path / "h5", volumes))
    whole = open_source("brats-nifti", write_nifti(tmp_path / "nii", volumes))
    from_h5 = fill(slices, tmp_path / "cache")
    from_nifti = fill(whole, tmp_path / "cache", normalise_scope="slice")
    assert from_h5.settings["normalise_scope"] == "slice"
    assert (from_h5.masks(slice(None)) == from_nifti.masks(slice(None))).all()
    difference = from_h5.images[:].astype(int) - from_nifti.images[:].astype(int)
    assert np.abs(difference).max() <= 1


def test_auto_scope_follows_what_the_files_keep(source: Source, tmp_path: Path) -> None:
    assert settings_of(source).normalise_scope == "volume"
    assert settings_of(open_source("brats-h5", tmp_path)).normalise_scope == "slice"
    data = Data(source="brats-nifti", root=tmp_path, normalise_scope="slice")
    assert CacheSettings.from_config(data, source).normalise_scope == "slice"


def test_an_unchanged_cache_is_used_again(source: Source, tmp_path: Path) -> None:
    first, made = prepare(source, settings_of(source), tmp_path / "cache", workers=1)
    second, found = prepare(source, settings_of(source), tmp_path / "cache", workers=1)
    assert (made.reused, found.reused) == (False, True)
    assert (made.slices, made.bytes) == (found.slices, found.bytes) == (30, first.bytes)
    assert first.path == second.path
    assert first.data_hash == second.data_hash


def test_changed_files_settings_or_patients_make_another_cache(
    source: Source, tmp_path: Path
) -> None:
    first = fill(source, tmp_path / "cache")
    fewer, _ = prepare(
        source, settings_of(source), tmp_path / "cache", workers=1, patients=source.patients()[:3]
    )
    assert len(fewer.patients) == 3
    caches = [first, fewer, fill(source, tmp_path / "cache", normalise="robust")]
    file = source.patients()[0].files[0]
    file.write_bytes(file.read_bytes())
    caches.append(fill(source, tmp_path / "cache"))
    assert len({cache.path for cache in caches}) == 4
    assert caches[0].data_hash == caches[3].data_hash
    assert len({cache.data_hash for cache in caches}) == 3


def test_content_has_one_hash_wherever_and_however_it_is_made(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, other times, worker processes: the same bytes."""
    here = fill(source, tmp_path / "cache")
    shutil.copytree(source.root, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)
    copy = open_source("brats-nifti", tmp_path / "elsewhere" / "copy")
    monkeypatch.setattr(sys.modules[prepare.__module__], "SMALL_BYTES", 0)
    there, _ = prepare(copy, settings_of(copy), tmp_path / "other", workers=2)
    assert there.path.name != here.path.name
    assert there.data_hash == here.data_hash
    assert (there.images[:] == here.images[:]).all()


def test_the_hash_changes_with_one_mask_pixel(
    tmp_path: Path, write_nifti: Write, volumes: Volumes
) -> None:
    before = fill(open_source("brats-nifti", write_nifti(tmp_path / "a", volumes)), tmp_path / "c")
    mask = next(iter(volumes.values()))[1]
    mask[0, 30, 30] ^= 1
    after = fill(open_source("brats-nifti", write_nifti(tmp_path / "b", volumes)), tmp_path / "c")
    assert before.data_hash != after.data_hash


def test_a_moved_cache_opens_and_is_verified_once(source: Source, tmp_path: Path) -> None:
    cache = fill(source, tmp_path / "cache")
    moved = tmp_path / "moved"
    shutil.copytree(cache.path, moved)
    stamp = json.loads((moved / "verified.json").read_text())
    assert open_cache(moved).data_hash == cache.data_hash
    assert json.loads((moved / "verified.json").read_text()) != stamp


def test_unknown_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.json cannot be read"):
        open_cache(tmp_path)


@pytest.mark.real_data
def test_real_volumes_lose_nothing_but_steps(shared_data: Path, tmp_path: Path) -> None:
    source = open_source("brats-nifti", shared_data / "brats20_nifti")
    chosen = [p for p in source.patients() if p.patient_id[-3:] in ("001", "132")]
    full = settings_of(source, image_size=240)
    cache, prepared = prepare(source, full, tmp_path, workers=1, patients=chosen)
    assert prepared.bytes / prepared.slices < 40_000
    for found in chosen:
        volume, patient = source.read(found), cache.by_id[found.patient_id]
        brain = brain_mask(volume.image, shared_scale=True)
        q = cache.native_image(patient)
        assert (cache.native_mask(patient) == volume.mask).all()
        assert ((q > 0) == brain).all()
        offset, step = cache.scale[patient.first]
        kept = (q > 1) & (q < 255)
        assert (np.abs(offset + q[kept] * step - volume.image[kept]) / step).max() <= 0.51
        assert kept.sum() > 0.98 * brain.sum()


@pytest.mark.real_data
def test_the_full_frame_takes_less_than_65_kb_a_slice(shared_data: Path, tmp_path: Path) -> None:
    source = open_source("brats-h5", shared_data / "brats20_h5")
    full = settings_of(source, image_size=240, crop="none")
    _, prepared = prepare(source, full, tmp_path, workers=1, patients=source.patients()[:5])
    assert prepared.bytes / prepared.slices <= 65_000


@pytest.mark.real_data
def test_heads_with_skull_and_noise(shared_data: Path, tmp_path: Path) -> None:
    source = open_source("lgg-tif", shared_data / "lgg_tif")
    chosen = source.patients()[:3]
    cache, _ = prepare(
        source, settings_of(source, image_size=128), tmp_path, workers=1, patients=chosen
    )
    assert cache.upright
    for found in chosen:
        volume, patient = source.read(found), cache.by_id[found.patient_id]
        assert (cache.native_mask(patient) == volume.mask).all()
        middle = cache.native_image(patient)[patient.count // 2]
        assert 0.2 < (middle > 0).mean() < 0.8
        assert (middle[:8, :8] == 0).mean() > 0.95

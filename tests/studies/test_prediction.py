"""Masks for scans without a segmentation, through a network whose answer is known."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from seglab.cli.main import main
from seglab.data.cache import CacheSettings
from seglab.data.labels import UNKNOWN_PART
from seglab.data.scans import find_scans
from seglab.data.sources.base import open_source
from seglab.learning.bundle import as_volume
from seglab.learning.reference import Reference
from seglab.studies.prediction import Predictions, predict, scan_warnings
from tests.data.files import save_nifti
from tests.data.memory import prepare
from tests.learning.bundles import make_bundle as make_network
from tests.studies.bright_front import make_bundle

Capture = pytest.CaptureFixture[str]
BRATS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 63], [0, 0, 1, 0], [0, 0, 0, 1]])


def head(front: int = 15, slices: int = 10) -> np.ndarray:
    """(x, y, z) as BraTS lies, with a bright cube around y = front and one at the back."""
    x, y, z = np.mgrid[0:64, 0:64, 0:slices]
    brain = ((x - 31) / 24) ** 2 + ((y - 31) / 29) ** 2 < 1
    values = np.where(brain, 400 + 60 * np.cos(x / 5) * np.cos(y / 7) + z, 0)
    values[20:26, front - 3 : front + 3, 3:6] = 1500
    values[20:26, 46:52, 3:6] = 1500
    return values.astype(np.int16)


CUBE_PX = 6 * 6 * 3


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save_nifti(tmp_path / "in" / "case_flair.nii.gz", head(), BRATS)


def only(found: Predictions) -> Any:
    assert not found.failed
    (one,) = found.outputs
    return one


def test_mask_has_the_grid_affine_and_header_of_the_scan(scan: Path, tmp_path: Path) -> None:
    image = nib.load(scan)
    image.header["descrip"] = b"scanner 7"
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 1500
    nib.save(nib.Nifti1Image(image.get_fdata(), None, image.header), scan)
    one = only(predict(make_bundle(), [scan], tmp_path / "out"))
    before, mask = nib.load(scan), nib.load(one.mask)
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, before.affine)
    for key in ("dim", "pixdim", "sform_code", "qform_code", "xyzt_units", "descrip", "srow_x"):
        assert np.array_equal(before.header[key], mask.header[key]), key
    data = np.asarray(mask.dataobj)
    assert set(np.unique(data)) == {0, 1}
    assert data[20:26, 12:18, 3:6].all()
    assert data.sum() == CUBE_PX
    assert one.volume_ml == pytest.approx(CUBE_PX / 1000)
    assert np.array(Image.open(one.overlay)).std() > 10


def test_slices_of_the_kaggle_layout_become_one_volume(phantoms: Path, tmp_path: Path) -> None:
    found = predict(make_bundle(), [phantoms], tmp_path / "out", {"Phantom_002": "train"})
    assert not found.failed
    assert len(found.outputs) == 9
    mask = nib.load(found.outputs[0].mask)
    assert mask.shape == (64, 64, 12)
    assert mask.header.get_zooms() == pytest.approx((240 / 64, 240 / 64, 155 / 12))
    assert found.outputs[0].volume_ml == pytest.approx(
        np.count_nonzero(mask.dataobj) * 240 * 240 * 155 / (64 * 64 * 12) / 1000
    )
    assert nib.aff2axcodes(mask.affine) == ("L", "P", "S")
    (known,) = (one for one in found.outputs if any("this model" in w for w in one.warnings))
    assert known.warnings[0].startswith("Phantom_002 trained this model")


def masks_in(path: Path) -> np.ndarray:
    """Pages of a TIFF."""
    with Image.open(path) as pages:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(pages)])


def test_tiff_slices_are_turned_for_a_model_of_other_storage(tmp_path: Path) -> None:
    volume = head()
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(volume.shape[2]):
        grey = (volume[:, :, number].T / 6).astype(np.uint8)  # upright: rows run to the back
        rgb = np.stack([grey * 0, grey, grey * 0], axis=-1)
        Image.fromarray(rgb).save(folder / f"CASE_{number + 1}.tif")
        Image.fromarray(grey).save(folder / f"CASE_{number + 1}_mask.tif")
    one = only(predict(make_bundle(), [folder], tmp_path / "out"))
    masks = masks_in(one.mask)
    assert len(masks) == 10
    assert (masks[3:6, 12:18, 20:26] == 255).all()
    assert one.volume_ml is None


def test_a_tiff_of_several_pages_is_a_volume_of_its_own(tmp_path: Path) -> None:
    """Not one of the slices that its name would make it."""
    folder = tmp_path / "in"
    folder.mkdir()
    grey = (np.moveaxis(head(), -1, 0).swapaxes(1, 2) / 6).astype(np.uint8)
    for number, length in ((1, 10), (2, 7)):
        first, *rest = map(Image.fromarray, grey[:length])
        first.save(folder / f"patient_{number}.tif", save_all=True, append_images=rest)
    Image.fromarray(grey[4]).save(folder / "patient_3.tif")
    found = predict(make_bundle(upright=True), [folder], tmp_path / "out")
    assert not found.failed
    pages = {one.mask.name: len(masks_in(one.mask)) for one in found.outputs}
    assert pages == {"patient_1_pred.tif": 10, "patient_2_pred.tif": 7, "patient_pred.tif": 1}


def test_a_segmentation_beside_the_scan_is_judged_too(scan: Path, tmp_path: Path) -> None:
    mask = save_nifti(scan.parent / "case_seg.nii.gz", (head() > 0).astype(np.uint8), BRATS)
    one = only(predict(make_bundle(), [scan.parent], tmp_path / "out"))
    (told,) = (text for text in one.warnings if "segmentation" in text)
    assert "marks 100% of the brain" in told
    save_nifti(mask, (head() > 1000).astype(np.uint8), BRATS)
    one = only(predict(make_bundle(), [scan.parent], tmp_path / "out"))
    assert not any("segmentation" in text for text in one.warnings)


def test_the_window_is_that_of_training_whatever_a_model_names(scan: Path, tmp_path: Path) -> None:
    t1ce, mask = head() + 5, (head() > 1000).astype(np.uint8)
    t1ce[t1ce == 5] = 0
    t1ce[40:60, 40:60] = head()[20:40, 20:40]  # it shows more than FLAIR does
    save_nifti(scan.parent / "case_t1ce.nii.gz", t1ce, BRATS)
    save_nifti(scan.parent / "case_seg.nii.gz", mask, BRATS)
    settings = CacheSettings(64, "brain", "zscore", "auto")
    source = open_source("brats-nifti", scan.parent)
    cache, _ = prepare(source, settings, tmp_path / "cache", modalities=("t1ce",))
    card = {"settings": settings, "shape": cache.shape, "window": cache.reference}
    bundle = make_network("t1ce", **card)
    (found,), _ = find_scans([scan.parent], bundle.card.modalities, bundle.card.window)
    prepared = bundle.prepare(found.read())
    assert prepared.patient.box == cache.patients[0].box
    np.testing.assert_array_equal(prepared.images[0], cache.images[0])
    scan.write_bytes(b"")  # damaged: the model does not need it
    assert only(predict(bundle, [scan.parent], tmp_path / "out")).seen[0] == scan


def test_a_modality_that_the_model_needs_is_missed_by_patient(scan: Path, tmp_path: Path) -> None:
    other = save_nifti(scan.parent / "other_t2.nii.gz", head(), BRATS)
    found = predict(make_bundle(), [scan.parent], tmp_path / "out")
    assert [one.input for one in found.outputs] == [scan]
    ((path, reason),) = found.failed
    assert path == other
    assert "other has no flair" in reason
    assert reason.endswith("this patient has: t2")


def test_scans_of_one_name_do_not_overwrite_each_other(scan: Path, tmp_path: Path) -> None:
    other = save_nifti(tmp_path / "more" / scan.name, head(front=20), BRATS)
    found = predict(make_bundle(), [scan, other], tmp_path / "out")
    assert len({one.mask for one in found.outputs}) == 2
    data = [np.asarray(nib.load(one.mask).dataobj) for one in found.outputs]
    assert data[0][20:26, 12:18, 3:6].all()
    assert data[1][20:26, 17:23, 3:6].all()


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_keeps_earlier_masks_and_none_is_overwritten(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = only(predict(make_bundle(), [scan], out))
    other = save_nifti(tmp_path / "in" / "other_flair.nii", head(front=20), BRATS)
    assert only(predict(make_bundle(), [other], out)).patient == "other"
    rows = rows_of(out)
    masks = ["case_flair_pred.nii.gz", "other_flair_pred.nii"]
    assert [(row["input"], row["mask"]) for row in rows] == [
        (str(path), mask) for path, mask in zip((scan, other), masks, strict=True)
    ]
    assert float(rows[0]["volume_ml"]) == pytest.approx(first.volume_ml, abs=1e-3)
    assert rows[0]["warnings"] == "; ".join(first.warnings)
    before = first.mask.read_bytes()
    same_name = save_nifti(tmp_path / "elsewhere" / scan.name, head(front=20), BRATS)
    found = predict(make_bundle(), [same_name], out)
    assert not found.outputs
    ((_, reason),) = found.failed
    assert f"would overwrite that of {scan}" in reason
    assert first.mask.read_bytes() == before
    assert rows_of(out) == rows
    only(predict(make_bundle(), [scan], out))  # the same scan again


def test_a_patient_of_the_models_own_training_is_told(tmp_path: Path) -> None:
    for name in ("anna", "bert", "cora", "dora"):
        save_nifti(tmp_path / "in" / f"{name}_flair.nii.gz", head(), BRATS)
    parts = {"anna": "train", "bert": "val", "cora": "test", "dora_ses-2": "train"}
    found = predict(make_bundle(), [tmp_path / "in"], tmp_path / "out", parts)
    told = [text for one in found.outputs for text in one.warnings if "this model" in text]
    assert [re.split("[,:]", text)[0] for text in told] == [
        "anna trained this model", "bert validated this model",
        "cora is in the test part of this model", "dora_ses-2 trained this model",
    ]  # fmt: skip


def test_the_command_tells_a_warning_once(scan: Path, tmp_path: Path, capsys: Capture) -> None:
    folder, results, out = tmp_path / "many", tmp_path / "results", tmp_path / "o"
    for name, front in (("anna", 15), ("bert", 17), ("cora", 15)):
        for modality in ("flair", "t1"):
            save_nifti(folder / f"{name}_{modality}.nii.gz", head(front), BRATS)
    for name in ("a.png", "b.png", "c.npy", "notes.txt"):
        (folder / name).write_bytes(b"")
    (folder / "anna_brain_mask.nii.gz").write_bytes(b"")
    make_bundle().save(results / "checkpoints")
    (results / "split.json").write_text(json.dumps({"train": ["anna", "cora"]}))
    model = str(results / "checkpoints" / "weights.safetensors")
    assert main(["predict", model, str(folder), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    (told,) = (line for line in lines if "trained this model" in line)
    assert told.startswith("2 of 3 patients: warning: trained this model: the mask is better")
    assert "anna" not in told
    assert "seen, not predicted: 3 files, the first anna_t1.nii.gz" in lines
    heading, row, *_, path = lines[-5:]
    assert heading.split() == ["patient", "mask", "ml", "warnings"]
    assert (row.split()[0], row.split()[2]) == ("anna", f"{CUBE_PX / 1000:.1f}")
    assert path == str(out / "predictions.csv")
    assert "passed over, since no reader takes them: 2 .png, 1 .npy" in printed.err
    assert "further images: anna_brain_mask.nii.gz" in printed.err
    each = [row["warnings"] for row in rows_of(out)]
    assert ["trained this model" in text for text in each] == [True, False, True]


def test_a_window_larger_than_the_trainings_is_told(scan: Path, tmp_path: Path) -> None:
    settings = CacheSettings(64, "brain", "zscore", "auto")
    for shape, told in (
        ((64, 64), []),
        ((64, 48), ["64 × 64 px instead of 64 × 48; check the mask"]),
    ):
        one = only(predict(make_network("flair", settings=settings, shape=shape), [scan], tmp_path))
        found = [text for text in one.warnings if "training's window" in text]
        assert [text.partition("saw ")[2] for text in found] == told


def test_flair_proven_by_labels_is_not_taken_for_t1() -> None:
    """Those of ``evaluate``; the mask of a prediction proves nothing."""
    z_first = np.moveaxis(np.clip(head(), 0, 530), -1, 0)[None].astype(np.float32)
    volume = as_volume(z_first, ["flair"], shared_scale=True)
    marked = np.moveaxis(head() == 1500, -1, 0)
    bundle = make_bundle()
    usual = Reference(5, [[64, 64], [64, 64]], None, lesion_z=9.0, skull_fall=None)
    card, prepared = replace(bundle.card, reference=usual), bundle.prepare(volume)
    (told,) = scan_warnings(card, volume, prepared, marked)
    assert told.startswith("perhaps T1, not FLAIR; check the mask: ")
    labelled = replace(volume, labels=UNKNOWN_PART * marked.astype(np.uint8))
    (told,) = scan_warnings(card, labelled, prepared, marked)
    assert told.startswith("check the mask: ")


def test_the_picture_says_what_it_is_of_and_the_first_warning(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
    one = only(predict(make_bundle(smallest_component_px=10**6), [scan], tmp_path / "out"))
    first, model, *warning = titles[0].splitlines()
    assert first == "case_flair: 0.0 ml"
    assert model.endswith("for research only")
    assert one.warnings[0].startswith("no tumour was found: ")
    assert " ".join(warning) == f"warning 1 of 1 (predictions.csv): {one.warnings[0]}"
    assert len(warning) == 2, "wrapped, not cut"


def test_without_a_tumour_the_channel_is_told_by_the_rest(scan: Path, tmp_path: Path) -> None:
    nothing = make_bundle(smallest_component_px=10**6)
    one = only(predict(nothing, [scan], tmp_path / "out"))
    (told,) = (text for text in one.warnings if text.startswith("no tumour was found"))
    assert "flair may be FLAIR or" in told
    assert "no tumour is outlined" in told
    small = np.zeros_like(head())
    small[25:34, 25:34] = head()[25:34, 25:34]
    path = save_nifti(tmp_path / "in" / "small.nii.gz", small, BRATS)
    one = only(predict(nothing, [path], tmp_path / "out"))
    assert any("no tumour" in text and "too little tissue" in text for text in one.warnings)


def test_trailing_axes_of_the_scan_are_kept_in_the_mask(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "in" / "a_flair.nii.gz", head()[..., None], BRATS)
    one = only(predict(make_bundle(), [path], tmp_path / "out"))
    assert nib.load(one.mask).shape == (64, 64, 10, 1)
    assert np.asarray(nib.load(one.mask).dataobj).sum() == CUBE_PX

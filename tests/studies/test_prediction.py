"""Masks for scans without a segmentation, through a network whose answer is known."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from seglab.cli.main import main
from seglab.data.cache import CacheSettings
from seglab.data.scans import find_scans
from seglab.data.sources.base import open_source
from seglab.studies.prediction import Predictions, predict
from tests.data.memory import prepare
from tests.learning.bundles import make_bundle as make_network
from tests.studies.bright_front import make_bundle

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
    return write_nifti(tmp_path / "in" / "case_flair.nii.gz", head(), BRATS)


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def only(found: Predictions) -> Any:
    assert not found.failed
    (one,) = found.outputs
    return one


def world(image: Any) -> set[tuple[int, ...]]:
    """Where the mask's voxels lie in the scanner, whatever the storage order."""
    voxels = np.argwhere(np.asarray(image.dataobj) > 0)
    return {tuple(np.rint(p).astype(int)) for p in nib.affines.apply_affine(image.affine, voxels)}


def test_mask_has_the_grid_affine_and_header_of_the_scan(scan: Path, tmp_path: Path) -> None:
    image = nib.load(scan)
    image.header["descrip"] = b"scanner 7"
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 1500
    nib.save(nib.Nifti1Image(image.get_fdata(), None, image.header), scan)
    one = only(predict(make_bundle(), [scan], tmp_path / "out"))
    before, after = nib.load(scan).header, nib.load(one.mask).header
    mask = nib.load(one.mask)
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, nib.load(scan).affine)
    same = ("dim", "pixdim", "sform_code", "qform_code", "xyzt_units", "descrip", "srow_x")
    for key in same:
        assert np.array_equal(before[key], after[key]), key
    data = np.asarray(mask.dataobj)
    assert set(np.unique(data)) == {0, 1}
    assert data[20:26, 12:18, 3:6].all()
    assert data.sum() == CUBE_PX
    assert one.volume_ml == pytest.approx(CUBE_PX / 1000)
    assert np.array(Image.open(one.overlay)).std() > 10


@pytest.mark.parametrize("codes", ["RAS", "AIR", "SRP"])
def test_a_scan_gives_the_same_mask_however_it_is_stored(
    scan: Path, tmp_path: Path, codes: str
) -> None:
    expected = world(nib.load(only(predict(make_bundle(), [scan], tmp_path / "a")).mask))
    source = nib.load(scan)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(source.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    turned = source.as_reoriented(turn)
    path = tmp_path / "turned.nii.gz"
    nib.save(turned, path)
    one = only(predict(make_bundle(), [path], tmp_path / "b"))
    found = nib.load(one.mask)
    assert "".join(nib.aff2axcodes(found.affine)) == codes
    assert found.shape == turned.shape
    assert world(found) == expected
    assert len(expected) == CUBE_PX


def test_slices_of_the_kaggle_layout_become_one_volume(phantoms: Path, tmp_path: Path) -> None:
    found = predict(make_bundle(), [phantoms], tmp_path / "out")
    assert not found.failed
    assert len(found.outputs) == 9
    mask = nib.load(found.outputs[0].mask)
    assert mask.shape == (64, 64, 12)
    assert mask.header.get_zooms() == pytest.approx((240 / 64, 240 / 64, 155 / 12))
    assert found.outputs[0].volume_ml == pytest.approx(
        np.count_nonzero(mask.dataobj) * 240 * 240 * 155 / (64 * 64 * 12) / 1000
    )
    assert nib.aff2axcodes(mask.affine) == ("L", "P", "S")


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
    with Image.open(one.mask) as pages:
        masks = []
        for page in range(pages.n_frames):
            pages.seek(page)
            masks.append(np.array(pages))
    assert len(masks) == 10
    assert (np.stack(masks)[3:6, 12:18, 20:26] == 255).all()
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
    pages = {}
    for one in found.outputs:
        with Image.open(one.mask) as mask:
            pages[one.mask.name] = getattr(mask, "n_frames", 1)
    assert pages == {"patient_1_pred.tif": 10, "patient_2_pred.tif": 7, "patient_pred.tif": 1}


def test_command_ends_with_2_and_names_what_failed(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle().save(tmp_path / "model")
    (scan.parent / "bad.nii").write_text("no")
    arguments = [str(tmp_path / "model"), str(scan.parent), "--out", str(tmp_path / "o"), "--json"]
    assert main(["predict", *arguments]) == 2
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [Path(one["input"]).name for one in report["outputs"]] == ["case_flair.nii.gz"]
    keys = {"patient", "input", "mask", "overlay", "volume_ml", "warnings", "seen"}
    assert keys <= report["outputs"][0].keys()
    assert [Path(one["input"]).name for one in report["failed"]] == ["bad.nii"]
    assert "bad.nii" in printed.err
    assert "Traceback" not in printed.err
    (scan.parent / "bad.nii").unlink()
    assert main(["predict", *arguments]) == 0


def test_other_modalities_and_labels_of_a_patient_are_seen_and_not_predicted(
    scan: Path, tmp_path: Path
) -> None:
    for name in ("case_t1", "case_t1ce", "case_t2", "case_seg"):
        write_nifti(scan.parent / f"{name}.nii.gz", head(), BRATS)
    one = only(predict(make_bundle(), [scan.parent], tmp_path / "out"))
    assert one.input == scan
    assert one.mask.name == "case_flair_pred.nii.gz"
    seen = ["case_t1.nii.gz", "case_t1ce.nii.gz", "case_t2.nii.gz", "case_seg.nii.gz"]
    assert [path.name for path in one.seen] == seen


def test_a_segmentation_beside_the_scan_is_judged_too(scan: Path, tmp_path: Path) -> None:
    mask = write_nifti(scan.parent / "case_seg.nii.gz", (head() > 0).astype(np.uint8), BRATS)
    one = only(predict(make_bundle(), [scan.parent], tmp_path / "out"))
    (told,) = (text for text in one.warnings if "segmentation" in text)
    assert "marks 100% of the brain" in told
    write_nifti(mask, (head() > 1000).astype(np.uint8), BRATS)
    one = only(predict(make_bundle(), [scan.parent], tmp_path / "out"))
    assert not any("segmentation" in text for text in one.warnings)


def test_the_window_is_that_of_training_whatever_the_model_names(
    scan: Path, tmp_path: Path
) -> None:
    t1ce, mask = head() + 5, (head() > 1000).astype(np.uint8)
    t1ce[t1ce == 5] = 0
    t1ce[40:60, 40:60] = head()[20:40, 20:40]  # it shows more than FLAIR does
    write_nifti(scan.parent / "case_t1ce.nii.gz", t1ce, BRATS)
    write_nifti(scan.parent / "case_seg.nii.gz", mask, BRATS)
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
    other = write_nifti(scan.parent / "other_t2.nii.gz", head(), BRATS)
    found = predict(make_bundle(), [scan.parent], tmp_path / "out")
    assert [one.input for one in found.outputs] == [scan]
    ((path, reason),) = found.failed
    assert path == other
    assert "other has no flair" in reason
    assert reason.endswith("has: t2")


def test_scans_of_one_name_do_not_overwrite_each_other(scan: Path, tmp_path: Path) -> None:
    other = write_nifti(tmp_path / "more" / scan.name, head(front=20), BRATS)
    found = predict(make_bundle(), [scan, other], tmp_path / "out")
    assert len({one.mask for one in found.outputs}) == 2
    data = [np.asarray(nib.load(one.mask).dataobj) for one in found.outputs]
    assert data[0][20:26, 12:18, 3:6].all()
    assert data[1][20:26, 17:23, 3:6].all()


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_a_folder_keeps_earlier_masks_and_refuses_to_overwrite_another_scans(
    scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = only(predict(make_bundle(), [scan], out))
    other = write_nifti(tmp_path / "in" / "other_flair.nii", head(front=20), BRATS)
    assert only(predict(make_bundle(), [other], out)).patient == "other"
    rows = rows_of(out)
    masks = ["case_flair_pred.nii.gz", "other_flair_pred.nii"]
    assert [(row["input"], row["mask"]) for row in rows] == [
        (str(path), mask) for path, mask in zip((scan, other), masks, strict=True)
    ]
    assert float(rows[0]["volume_ml"]) == pytest.approx(first.volume_ml, abs=1e-3)
    assert rows[0]["warnings"] == "; ".join(first.warnings)
    before = first.mask.read_bytes()
    same_name = write_nifti(tmp_path / "elsewhere" / scan.name, head(front=20), BRATS)
    found = predict(make_bundle(), [same_name], out)
    assert not found.outputs
    ((_, reason),) = found.failed
    assert f"would overwrite that of {scan}" in reason
    assert first.mask.read_bytes() == before
    assert rows_of(out) == rows
    only(predict(make_bundle(), [scan], out))  # the same scan again


@pytest.mark.parametrize(
    ("name", "part", "told"),
    [
        ("case", "train", "case trained this model"),
        ("case", "val", "case validated this model"),
        ("case", "test", None),
        ("case_ses-2", "train", "case_ses-2 trained this model"),
    ],
)
def test_a_patient_of_the_models_own_training_is_told(
    scan: Path, tmp_path: Path, name: str, part: str, told: str | None
) -> None:
    one = only(predict(make_bundle(), [scan], tmp_path / "out", {name: part, "x": "train"}))
    found = [text for text in one.warnings if "this model" in text]
    assert [text.partition(",")[0].partition(":")[0] for text in found] == [told] * bool(told)


def test_slices_are_known_by_the_name_of_their_set(phantoms: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(phantoms, folder, ignore=shutil.ignore_patterns("volume_[!2]_*"))
    one = only(predict(make_bundle(), [folder], tmp_path / "out", {"Phantom_002": "train"}))
    assert one.warnings[0].startswith("Phantom_002 trained this model")


def test_the_command_ends_with_a_table_and_says_what_it_passed_over(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle().save(tmp_path / "results" / "checkpoints")
    split = {"train": ["case"], "val": [], "test": []}
    (tmp_path / "results" / "split.json").write_text(json.dumps(split))
    for name in ("a.png", "b.png", "c.npy", "notes.txt"):
        (scan.parent / name).write_bytes(b"")
    model = str(tmp_path / "results" / "checkpoints" / "weights.safetensors")
    assert main(["predict", model, str(scan.parent), "--out", str(tmp_path / "o")]) == 0
    printed = capsys.readouterr()
    assert "case: warning: case trained this model" in printed.out
    heading, row, path = printed.out.splitlines()[-3:]
    assert heading.split() == ["patient", "mask", "ml", "warnings"]
    assert row.split()[0] == "case"
    assert row.split()[2] == f"{CUBE_PX / 1000:.1f}"
    assert path == str(tmp_path / "o" / "predictions.csv")
    assert "passed over, since no reader takes them: 2 .png, 1 .npy" in printed.err


def test_a_warning_of_many_patients_is_printed_once(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "many"
    for name, front in (("anna", 15), ("bert", 17), ("cora", 15)):
        write_nifti(folder / f"{name}_flair.nii.gz", head(front), BRATS)
        write_nifti(folder / f"{name}_t1.nii.gz", head(front), BRATS)
    make_bundle().save(tmp_path / "model")
    (tmp_path / "model" / "split.json").write_text(json.dumps({"train": ["anna", "cora"]}))
    assert (
        main(["predict", str(tmp_path / "model"), str(folder), "--out", str(tmp_path / "o")]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    (told,) = (line for line in lines if "trained this model" in line)
    assert told.startswith("2 of 3 patients: warning: anna trained this model")
    assert told.endswith(" (this is anna; the others: predictions.csv)")
    assert "seen, not predicted: 3 files, the first anna_t1.nii.gz" in lines
    each = [row["warnings"] for row in rows_of(tmp_path / "o")]
    assert ["trained this model" in text for text in each] == [True, False, True]


def test_without_a_tumour_the_channel_is_told_by_the_rest(scan: Path, tmp_path: Path) -> None:
    nothing = make_bundle(smallest_component_px=10**6)
    one = only(predict(nothing, [scan], tmp_path / "out"))
    (told,) = (text for text in one.warnings if text.startswith("no tumour was found"))
    assert "flair may be FLAIR or" in told
    assert "no tumour is outlined" in told
    small = np.zeros_like(head())
    small[25:34, 25:34] = head()[25:34, 25:34]
    path = write_nifti(tmp_path / "in" / "small.nii.gz", small, BRATS)
    one = only(predict(nothing, [path], tmp_path / "out"))
    assert any("no tumour" in text and "too little tissue" in text for text in one.warnings)


def test_trailing_axes_of_the_scan_are_kept_in_the_mask(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "in" / "a_flair.nii.gz", head()[..., None], BRATS)
    one = only(predict(make_bundle(), [path], tmp_path / "out"))
    assert nib.load(one.mask).shape == (64, 64, 10, 1)
    assert np.asarray(nib.load(one.mask).dataobj).sum() == CUBE_PX

"""Scans to predict: which files are one patient's, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seglab.data.scans import find_scans
from tests.data.files import save_nifti

BLOCK = np.zeros((16, 16, 6), np.int16)
BLOCK[4:12, 4:12, 2:4] = 1200 + np.arange(128).reshape(8, 8, 2)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save_nifti(tmp_path / "in" / "case_flair.nii.gz", BLOCK)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("foo.tif", "foo_1.tif", "foo_2.tif"), [("foo.tif",), ("foo_1.tif", "foo_2.tif")]),
        (("volume_1.h5", "volume_1_slice_0.h5"), [("volume_1.h5",), ("volume_1_slice_0.h5",)]),
        (("foo.nii", "foo.nii.gz"), [("foo.nii",), ("foo.nii.gz",)]),
        (("P_flair.nii", "P_t1.nii", "P_seg.nii", "P_flair_pred.nii"), [("P_flair.nii",)]),
        (("P_flair.nii", "P_DWI.nii", "a.nii", "a_brainmask.nii"), [("P_flair.nii",), ("a.nii",)]),
        (("a.nii", "brain scan.nii"), [("a.nii",), ("brain scan.nii",)]),
        (("p_brain.nii", "p_brain_mask.nii", "aparc+aseg.nii"), [("p_brain.nii",)]),
        (("p_flair_brain.nii", "p_t1_brain.nii"), [("p_flair_brain.nii",)]),
    ],
)
def test_files_are_grouped_by_their_names(
    tmp_path: Path, names: tuple[str, ...], expected: list[tuple[str, ...]]
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    scans, failed = find_scans([tmp_path], ("flair",))
    assert not failed
    read = [set(scan.patient.files) - set(scan.seen) for scan in scans]
    assert sorted(tuple(sorted(path.name for path in paths)) for paths in read) == expected
    assert len({scan.name for scan in scans}) == len(scans)


def test_a_broken_dataset_json_is_named_and_stops_no_other_scan(scan: Path) -> None:
    broken = scan.parent / "set" / "dataset.json"
    save_nifti(scan.parent / "set" / "c_flair.nii", BLOCK)
    broken.write_text('{"labels": [')
    (found,), ((path, reason),) = find_scans([scan.parent], ("flair",))
    assert (found.path, path) == (scan, broken)
    assert "dataset.json is not the description" in reason


def test_modalities_of_a_patient_become_one_scan(scan: Path, tmp_path: Path) -> None:
    save_nifti(scan.parent / "case_t1ce.nii.gz", BLOCK + 5)
    ((found,), _) = find_scans([scan.parent], ("t1ce", "flair"))
    volume = found.read()
    assert found.name == "case"
    assert volume.modalities == ("t1ce", "flair")
    assert np.array_equal(volume.images[1], volume.images[0] - 5)
    path = found.write(volume.images[0] > 1000, volume, tmp_path)
    assert path.name == "case_pred.nii.gz"
    assert np.asarray(nib.load(path).dataobj).sum() == (BLOCK > 1000).sum()


def test_an_empty_folder_is_called_empty(tmp_path: Path) -> None:
    scans, ((_, reason),) = find_scans([tmp_path], ("flair",))
    assert not scans
    assert reason.endswith(" is empty")

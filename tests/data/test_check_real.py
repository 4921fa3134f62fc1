"""The check on real MRI: the channel that is FLAIR, and those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from seglab.data.check import Identity, check
from seglab.data.check.channels import identify
from seglab.data.check.examine import examine
from seglab.data.duplicates import duplicates, fingerprint
from seglab.data.identity import image_identity
from seglab.data.sources import Source, open_source

pytestmark = pytest.mark.real_data


def identities(source: Source, patients: int) -> list[Identity]:
    """Each channel judged as the chosen one, from one reading of the first patients."""
    probes = [examine(source, patient).probes for patient in source.patients()[:patients]]
    names = source.channel_names
    return [identify(probes, names, channel) for channel in range(len(names))]


@pytest.mark.parametrize("patients", [6, 30])
def test_other_channels_of_brats_are_betrayed(shared_data: Path, patients: int) -> None:
    found = identities(open_source("brats-h5", shared_data / "brats20_h5"), patients)
    assert [identity.ok for identity in found] == [True, False, False, False]
    evidence = found[0].channels
    assert [one.looks_like for one in evidence] == ["FLAIR", "T1", "T1ce", "T2"]
    assert f"tumour is {evidence[1].lesion_z:+.1f} σ" in found[1].reason
    assert f"tumour is {evidence[2].lesion_z:+.1f} σ" in found[2].reason


def test_t2_in_a_half_finished_download_is_betrayed_by_its_bright_csf(shared_data: Path) -> None:
    report = check(open_source("brats-h5", shared_data / "brats20_h5", 3))
    identity = report.identity
    assert not identity.ok
    assert identity.channels[3].csf_z > 4
    assert identity.channels[0].csf_z < -2
    assert f"CSF {identity.channels[3].csf_z:+.1f} σ" in identity.reason
    assert (report.patients, report.slices, report.tumour_slices) == (86, 103, 103)
    assert len(report.missing_files) == 57_195 - 103
    assert not report.bad_files
    assert not report.duplicates
    assert not report.surprises
    assert len(report.to_text().splitlines()) < 40


def test_only_the_second_channel_of_lgg_is_flair(shared_data: Path) -> None:
    found = identities(open_source("lgg-tif", shared_data / "lgg_tif"), 6)
    assert [identity.ok for identity in found] == [False, True, False]


def test_flair_repeated_for_an_absent_sequence_is_told(shared_data: Path) -> None:
    case = "TCGA_DU_7301_19911112"
    report = check(open_source("lgg-tif", shared_data / "lgg_tif" / "kaggle_3m" / case))
    told = f"channel 2 (T1ce) repeats the chosen one in 1 patient(s): {case}"
    assert told in report.surprises


@pytest.mark.parametrize("number", [22, 134])
def test_flair_volume_passes_by_itself(shared_data: Path, number: int) -> None:
    source = open_source("brats-nifti", shared_data / "brats20_nifti")
    name = f"BraTS20_Training_{number:03d}"
    volume = source.read(next(p for p in source.patients() if p.patient_id == name))
    assert image_identity(volume.image, mirror_axis=source.mirror_axis).ok
    verdict = image_identity(volume.image, volume.mask, mirror_axis=source.mirror_axis)
    assert verdict.ok
    assert verdict.lesion_z > 1


def test_h5_slices_are_known_again_in_the_nifti_volume(shared_data: Path) -> None:
    prints = []
    for name, folder in (("brats-h5", "brats20_h5"), ("brats-nifti", "brats20_nifti")):
        source = open_source(name, shared_data / folder)
        for patient in source.patients():
            if patient.patient_id[-3:] in ("022", "131"):
                volume = source.read(patient)
                label = f"{patient.patient_id} {name}"
                prints.append(fingerprint(label, volume.image, volume.mask, volume.slice_indices))
    pairs = [(one.first[:20], one.second[:20]) for one in duplicates(prints)]
    assert len(pairs) == 2
    assert all(first == second for first, second in pairs)

"""What figures say of a name, and which real images they prove."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglab.core.config import MODALITIES
from seglab.data.identity import Figures, Identity, ModalityIdentity, identify, measure
from seglab.data.sources import open_source

NAN = float("nan")
TYPICAL = {
    "flair": Figures(-0.3, 4.0, 0.3, 9.0, 0.0),
    "t1": Figures(-0.3, -0.5, 0.1, 2.0, 0.0),
    "t1ce": Figures(-0.3, -0.5, 4.0, 8.0, 0.0),
    "t2": Figures(0.5, 2.0, -0.3, 9.0, 0.1),
}
"""Medians of BraTS 2020."""


def judged(named: str, figures: Figures) -> ModalityIdentity:
    return identify([{named: figures._replace(slices=15)}], [named]).modalities[0]


@pytest.mark.parametrize("named", MODALITIES)
@pytest.mark.parametrize("true", MODALITIES)
def test_typical_images_are_proven_or_told_wrong(true: str, named: str) -> None:
    found = judged(named, TYPICAL[true])
    assert found.looks_like == [true]
    assert found.verdict == ("proven" if named == true else "wrong")


@given(st.tuples(*[st.one_of(st.just(NAN), st.floats(-20, 20))] * 5))
def test_a_name_is_proven_only_where_no_other_can_be(values: tuple[float, ...]) -> None:
    found = {name: judged(name, Figures(*values)) for name in MODALITIES}
    proven = [name for name, one in found.items() if one.verdict == "proven"]
    assert len(proven) <= 1
    if proven:
        assert all(one.verdict == "wrong" for name, one in found.items() if name not in proven)
    assert all(one.reason for one in found.values())


def test_what_is_wrong_is_told_with_figure_and_limit() -> None:
    reason = judged("flair", TYPICAL["t2"]).reason
    assert reason == "looks like T2, not FLAIR: CSF brightness +0.50 (FLAIR: below +0.28)"
    assert "oedema -0.5 σ (FLAIR: above +1.1)" in judged("flair", TYPICAL["t1"]).reason
    assert (
        "brightest tissue +2.0 σ"
        in judged("t1ce", TYPICAL["t1"]._replace(enhancement_z=NAN)).reason
    )


def test_what_cannot_be_proven_is_told_with_what_is_missing() -> None:
    merged = TYPICAL["t1ce"]._replace(enhancement_z=NAN, skull_fall=0.5)
    reason = "may be T1 or T1ce: no enhancing part is labelled, the skull is on"
    assert [judged(name, merged).reason for name in ("t1", "t1ce")] == [reason] * 2
    unlabelled = TYPICAL["flair"]._replace(oedema_z=NAN, enhancement_z=NAN)
    assert "no tumour is outlined" in judged("flair", unlabelled).reason
    between = TYPICAL["flair"]._replace(oedema_z=0.8, enhancement_z=NAN)
    assert "oedema +0.8 σ is between +0.6 and +1.1" in judged("flair", between).reason


def test_a_contrast_of_none_of_the_four_is_told() -> None:
    assert "none of the four" in judged("t2", Figures(0.5, -2.0, NAN, NAN, 0.0)).reason


def test_a_set_is_judged_by_medians_over_those_that_know() -> None:
    odd = [{"flair": TYPICAL["t2"]}, {"flair": Figures(*[NAN] * 5)}]
    found = identify([{"flair": TYPICAL["flair"]._replace(slices=3)}] * 3 + odd, ["flair"])
    assert found.ok
    assert found.modalities[0].patients == 3
    assert found.modalities[0].figures.oedema_z == 4.0


def test_without_any_patient_nothing_is_proven() -> None:
    assert not identify([], []).ok
    assert not identify([{"t1": Figures(*[NAN] * 5)}], ["t1"]).ok


def real(root: Path, source: str, *, merged: bool = False, masked: bool = True) -> list[Identity]:
    """Every patient of a set, each of its modalities judged."""
    opened, found = open_source(source, root), []
    for patient in opened.patients():
        volume = opened.read(patient, patient.modalities)
        labels = np.where(volume.labels > 0, 4, 0).astype(np.uint8) if merged else volume.labels
        axis, names = opened.mirror_axis, volume.modalities
        figures = measure(volume.images, names, labels if masked else None, mirror_axis=axis)
        found.append(identify([figures], names))
    return found


def tally(found: list[Identity]) -> Counter[tuple[str, str]]:
    return Counter((one.modality, one.verdict) for each in found for one in each.modalities)


BRATS = {"flair": 19, "t1": 13, "t1ce": 9, "t2": 3}


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True])
def test_every_real_volume_is_proven(shared_data: Path, merged: bool) -> None:
    roots = ("brats20_nifti", "brats23_nifti")
    found = [
        one for root in roots for one in real(shared_data / root, "brats-nifti", merged=merged)
    ]
    assert tally(found) == {(name, "proven"): count for name, count in BRATS.items()}


@pytest.mark.real_data
def test_without_a_mask_flair_and_t1ce_are_not_told_apart(shared_data: Path) -> None:
    found = tally(real(shared_data / "brats23_nifti", "brats-nifti", masked=False))
    assert found == {("t1", "proven"): 1, ("t2", "proven"): 1, ("flair", "not provable"): 1,
                     ("t1ce", "not provable"): 1}  # fmt: skip


@pytest.mark.real_data
def test_lgg_set_proves_flair_and_a_repeated_channel(shared_data: Path) -> None:
    found = real(shared_data / "lgg_tif", "lgg-tif")
    assert tally(found) == {
        ("flair", "proven"): 13, ("flair", "not provable"): 1, ("t1", "not provable"): 14,
        ("t1ce", "not provable"): 13, ("t1ce", "wrong"): 1,
    }  # fmt: skip
    (wrong,) = (one for each in found for one in each.wrong)
    assert "looks like FLAIR, not T1ce" in wrong.reason

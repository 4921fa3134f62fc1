"""One phantom patient: repeatable, the same on every grid, and with the contrasts of real MRI."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from seglab.core.config import MODALITIES
from seglab.data.identity import identify, measure
from seglab.data.phantom.anatomy import FRAME_MM, Grid, smooth_field
from seglab.data.phantom.patient import PhantomPatient, make_patient

FLAIR, T1, T1CE, T2 = range(4)
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4


@pytest.fixture(scope="module")
def patients() -> list[PhantomPatient]:
    return [make_patient(0, number, size=80, slices=40) for number in range(1, 13)]


def test_field_equals_scipys_cubic_spline() -> None:
    grid = Grid(40, 12)
    field = smooth_field(np.random.default_rng(7), grid, 23.0)
    counts = [int(np.ceil(mm / 23)) + 4 for mm in FRAME_MM]
    coefficients = np.random.default_rng(7).standard_normal(counts, dtype=np.float32)
    # scipy's spline through coefficients c is centred on knot i at position i; ours on i - 1.
    at = np.meshgrid(*(axis / 23.0 + 1 for axis in grid.axes_mm), indexing="ij")
    expected = ndimage.map_coordinates(coefficients, at, order=3, prefilter=False)
    np.testing.assert_allclose(field, expected / (151 / 315) ** 1.5, atol=1e-5)


def test_arrays_are_what_the_docstring_says(patients: list[PhantomPatient]) -> None:
    for patient in patients:
        assert patient.image.shape == (40, 80, 80, 4)
        assert (patient.image.dtype, patient.labels.dtype) == (np.float32, np.uint8)
        assert patient.spacing_mm == pytest.approx((155 / 40, 3, 3))
        assert set(np.unique(patient.labels)) <= {0, 1, 2, 4}
        np.testing.assert_array_equal(patient.image, np.rint(patient.image))
        brain = patient.image > 0
        assert (brain == brain[..., :1]).all()
        assert not patient.labels[~brain[..., 0]].any()
        for axis in (1, 2):  # no head is cut off by the frame
            assert not brain[..., 0].any(tuple({0, 1, 2} - {axis}))[[0, -1]].any()


def test_tissue_has_the_contrasts_of_real_mri(patients: list[PhantomPatient]) -> None:
    """Signals over the brain's median, as in BraTS volumes 136 and 237."""
    levels: dict[int, list[np.ndarray]] = {NECROSIS: [], OEDEMA: [], ENHANCING: []}
    for patient in patients:
        level = np.median(patient.image[patient.image[..., FLAIR] > 0], axis=0)
        for label in np.unique(patient.labels[patient.labels > 0]):
            inside = patient.image[patient.labels == label]
            levels[int(label)].append(np.median(inside, axis=0) / level)
    necrosis, oedema, enhancing = (np.median(levels[label], axis=0) for label in levels)
    assert oedema[FLAIR] > 1.3
    assert oedema[T2] > 1.3
    assert oedema[T1CE] == pytest.approx(1, abs=0.1)
    assert enhancing[T1CE] > 1.5
    assert enhancing[T1] < 1.1
    assert enhancing[FLAIR] == pytest.approx(oedema[FLAIR], abs=0.15)
    assert necrosis[T1CE] < 0.9


def test_every_modality_is_proven_by_its_looks(patients: list[PhantomPatient]) -> None:
    for merged in (False, True):
        found = []
        for patient in patients:
            canonical = [0, 4, 4, 0, 4] if merged else [0, 1, 2, 0, 3]
            labels = np.array(canonical, np.uint8)[patient.labels]
            found.append(measure(np.moveaxis(patient.image, -1, 0), MODALITIES, labels))
        judged = identify(found, MODALITIES).modalities
        assert [one.verdict for one in judged] == ["proven"] * 4


WHOLE = (NECROSIS, OEDEMA, ENHANCING)


@pytest.mark.parametrize(
    ("channel", "labels", "dice"),
    [(FLAIR, WHOLE, 0.7), (T1CE, WHOLE, 0.2), (T1CE, (4,), 0.6), (FLAIR, (4,), 0.25)],
)
def test_the_best_threshold_finds(
    patients: list[PhantomPatient], channel: int, labels: tuple[int, ...], dice: float
) -> None:
    """Whole tumour shows on FLAIR and enhancing tumour on T1ce; neither is for free."""
    found = []
    for patient in patients:
        image, truth = patient.image[..., channel], np.isin(patient.labels, labels)
        inside = image[image > 0]
        for deviations in np.arange(0.25, 4.5, 0.25)[: None if truth.any() else 0]:
            seen = image > inside.mean() + deviations * inside.std()
            found.append(2 * (seen & truth).sum() / (seen.sum() + truth.sum()))
    assert np.reshape(found, (-1, 17)).mean(0).max() == pytest.approx(dice, abs=0.1)


def test_patients_differ(patients: list[PhantomPatient]) -> None:
    volumes = [float(patient.traits["tumour_ml"]) for patient in patients]
    assert min(volumes) < 20 < 150 < max(volumes)
    assert {patient.traits["grade"] for patient in patients} == {"HGG", "LGG"}
    found = {patient.traits["difficulty"] for patient in patients}
    assert found == {"usual", "faint", "distractor"}
    for patient in patients:
        assert (patient.traits["grade"] == "HGG") == (patient.labels == ENHANCING).any()
    with_tumour = np.concatenate([patient.labels.any((1, 2)) for patient in patients])
    assert 0.3 < with_tumour.mean() < 0.5

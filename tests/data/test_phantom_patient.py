"""One phantom patient: repeatable, the same at every size, and like a brain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from seglab.core.errors import UserError
from seglab.data.phantom import PhantomPatient, Plant, make_patient

FLAIR, T1, T1CE, T2 = range(4)
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4


def small(patient: int, plant: Plant | None = None, seed: int = 0) -> PhantomPatient:
    return make_patient(seed, patient, size=80, slices=40, plant=plant)


@pytest.fixture(scope="module")
def patients() -> list[PhantomPatient]:
    return [small(number) for number in range(1, 13)]


def centre_mm(mask: np.ndarray) -> np.ndarray:
    steps = np.array([155.0, 240.0, 240.0]) / mask.shape
    return (np.argwhere(mask).mean(0) + 0.5) * steps


def test_arrays_are_what_the_docstring_says(patients: list[PhantomPatient]) -> None:
    for patient in patients:
        assert patient.image.shape == (40, 80, 80, 4)
        assert patient.labels.shape == (40, 80, 80)
        assert patient.image.dtype == np.float32
        assert patient.labels.dtype == np.uint8
        assert set(np.unique(patient.labels)) <= {0, 1, 2, 4}
        np.testing.assert_array_equal(patient.image, np.rint(patient.image))
        brain = patient.image > 0
        assert (brain == brain[..., :1]).all()
        assert not (patient.labels[~brain[..., 0]]).any()
        for axis in (1, 2):  # no head is cut off by the frame
            edges = brain[..., 0].any(tuple({0, 1, 2} - {axis}))[[0, -1]]
            assert not edges.any()


def test_same_seed_same_patient_and_other_seed_another(patients: list[PhantomPatient]) -> None:
    again = small(3)
    np.testing.assert_array_equal(again.image, patients[2].image)
    np.testing.assert_array_equal(again.labels, patients[2].labels)
    assert again.traits == patients[2].traits
    assert (small(3, seed=1).labels != again.labels).any()


def test_a_coarser_grid_shows_the_same_head() -> None:
    fine = make_patient(0, 4, size=128, slices=48)
    coarse = make_patient(0, 4, size=64, slices=24)
    assert coarse.traits.tumour_ml == pytest.approx(fine.traits.tumour_ml, rel=0.1)
    assert coarse.traits.grade == fine.traits.grade
    gap = centre_mm(coarse.labels > 0) - centre_mm(fine.labels > 0)
    assert np.abs(gap).max() < 2.0
    blocks = fine.image[..., FLAIR].reshape(24, 2, 64, 2, 64, 2)
    averaged = blocks.mean((1, 3, 5))
    both = (coarse.image[..., FLAIR] > 0) & (blocks.min((1, 3, 5)) > 0)
    assert np.corrcoef(averaged[both], coarse.image[..., FLAIR][both])[0, 1] > 0.75


@pytest.mark.parametrize(("size", "slices"), [(32, 8), (33, 9), (50, 155), (240, 8)])
def test_any_grid_works(size: int, slices: int) -> None:
    patient = make_patient(0, 3, size=size, slices=slices)
    assert patient.image.shape == (slices, size, size, 4)
    assert patient.labels.any()


def test_heads_lie_on_their_side(patients: list[PhantomPatient]) -> None:
    def overlap(brain: np.ndarray, axis: int) -> float:
        middle = round(float(np.argwhere(brain).mean(0)[axis]) * 2) - (brain.shape[axis] - 1)
        mirrored = np.roll(np.flip(brain, axis), middle, axis)
        return float((brain & mirrored).sum() / (brain | mirrored).sum())

    for patient in patients[:4]:
        brain = patient.image[..., FLAIR] > 0
        across, along = (np.ptp(np.argwhere(brain), axis=0) + 1)[1:]
        assert along > 1.15 * across
        assert overlap(brain, 1) > 0.9 > overlap(brain, 2)


def test_channels_agree_with_their_names(patients: list[PhantomPatient]) -> None:
    for patient in patients:
        image, labels = patient.image, patient.labels
        brain = image[..., FLAIR] > 0
        spread = image[brain].std(0)
        level = np.median(image[brain], axis=0)
        oedema = (image[labels == OEDEMA].mean(0) - level) / spread
        assert int(np.argmax(oedema)) == FLAIR
        # Fluid: what is far brighter than tissue on T2 and lies outside the tumour.
        t2 = image[..., T2]
        fluid = brain & (labels == 0) & (t2 > np.percentile(t2[brain], 98))
        assert np.median(image[fluid], axis=0)[FLAIR] < 0.85 * level[FLAIR]
        if np.isin([NECROSIS, ENHANCING], labels).all():
            rim = image[labels == ENHANCING].mean(0) - image[labels == NECROSIS].mean(0)
            assert int(np.argmax(rim / spread)) == T1CE


def test_low_grade_tumours_do_not_enhance(patients: list[PhantomPatient]) -> None:
    grades = {patient.traits.grade for patient in patients}
    assert grades == {"HGG", "LGG"}
    for patient in patients:
        if patient.traits.grade == "LGG":
            assert not (patient.labels == ENHANCING).any()


def test_most_slices_are_empty(patients: list[PhantomPatient]) -> None:
    with_tumour = np.concatenate([p.labels.any((1, 2)) for p in patients])
    assert 0.25 < with_tumour.mean() < 0.5


def test_no_threshold_solves_them(patients: list[PhantomPatient]) -> None:
    scores = []
    for threshold in np.arange(0.5, 4.0, 0.25):
        dices = []
        for patient in patients:
            flair, truth = patient.image[..., FLAIR], patient.labels > 0
            inside = flair[flair > 0]
            found = flair > inside.mean() + threshold * inside.std()
            dices.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
        scores.append(np.mean(dices))
    assert 0.3 < max(scores) < 0.75


def test_scanners_differ(patients: list[PhantomPatient]) -> None:
    levels = [np.median(p.image[..., FLAIR][p.image[..., FLAIR] > 0]) for p in patients]
    assert np.ptp(levels) / np.median(levels) > 0.5


def contrast(patient: PhantomPatient, where: np.ndarray) -> float:
    """FLAIR of the tumour over that of its surroundings, in units of the brain's spread."""
    flair = patient.image[..., FLAIR]
    around = ndimage.binary_dilation(where, iterations=3) & ~where & (flair > 0)
    return float((flair[where].mean() - flair[around].mean()) / flair[flair > 0].std())


def test_planted_tiny_lesion() -> None:
    patient = small(3, "tiny")
    assert 0 < patient.traits.tumour_ml < 0.6
    assert patient.traits.plant == "tiny"


def test_planted_faint_lesion() -> None:
    faint, plain = small(3, "faint"), small(3)
    assert contrast(faint, faint.labels > 0) < 0.5 * contrast(plain, plain.labels > 0)
    assert faint.traits.oedema_contrast < 0.25 * plain.traits.oedema_contrast
    assert faint.labels.any()


@pytest.mark.parametrize("number", [3, 5, 8])
def test_planted_distractor_shines_far_from_the_tumour(number: int) -> None:
    patient, plain = small(number, "distractor"), small(number)
    assert patient.traits.distractor is not None
    at = patient.traits.distractor
    here = (slice(at[0] - 1, at[0] + 2), slice(at[1] - 1, at[1] + 2), slice(at[2] - 1, at[2] + 2))
    flair = patient.image[..., FLAIR]
    assert not patient.labels[here].any()
    assert flair[here].mean() > np.percentile(flair[flair > 0], 93)
    assert flair[here].mean() > 1.3 * plain.image[..., FLAIR][here].mean()
    steps = np.array([155 / 40, 3.0, 3.0])
    distance = np.sqrt((((np.argwhere(patient.labels > 0) - at) * steps) ** 2).sum(1)).min()
    assert distance > 15


def test_planted_distractor_only_has_no_tumour() -> None:
    patient = small(3, "distractor_only")
    assert not patient.labels.any()
    assert patient.traits.grade is None
    assert patient.traits.tumour_ml == 0


def test_planted_shift_moves_the_truth_of_the_named_slices_only() -> None:
    patient, plain = small(3, "shifted_truth"), small(3)
    np.testing.assert_array_equal(patient.image, plain.image)
    changed = np.flatnonzero((patient.labels != plain.labels).any((1, 2)))
    assert tuple(changed) == patient.traits.shifted_slices
    assert len(changed) >= 5


def test_planted_intensity_leaves_the_range_of_the_others(patients: list[PhantomPatient]) -> None:
    def stretch(patient: PhantomPatient) -> float:
        flair = patient.image[..., FLAIR]
        outside = flair[(flair > 0) & (patient.labels == 0)]
        return float(np.percentile(outside, 99) / np.median(outside))

    usual = max(stretch(patient) for patient in patients)
    for number in (1, 3, 6):
        assert stretch(small(number, "intensity")) > 1.3 * usual


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 31}, "size 31 .* at least 32"),
        ({"slices": 7}, "slices 7 .* at least 8"),
        ({"plant": "tinny"}, "tinny.*did you mean 'tiny'"),
    ],
)
def test_bad_requests_name_the_culprit(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_patient(0, 1, **settings)  # type: ignore[arg-type]

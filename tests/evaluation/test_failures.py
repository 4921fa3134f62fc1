"""Explaining failures: the partition is exact, each planted failure gets its own cause."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from seglab.data.normalise import brain_mask, quantise
from seglab.data.phantom import make_patient
from seglab.evaluation.case import Case
from seglab.evaluation.failures import (
    Cause,
    Explanation,
    IntensityRange,
    Rule,
    analyse,
    describe,
    explain,
    learn_range,
    paragraph,
)
from seglab.evaluation.failures.consistency import inconsistent_slices, neighbour_overlap
from seglab.evaluation.failures.intensity import brain_quantiles
from seglab.evaluation.failures.regions import divide
from seglab.evaluation.failures.space import Space
from seglab.evaluation.metrics import score_patient

Mask = NDArray[np.bool_]
SHAPE = (40, 64, 64)
MM = (1.0, 1.0, 1.0)
TISSUE, TUMOUR, NOISE = 90, 150, 12


def ball(centre: tuple[int, int, int], radius: float) -> Mask:
    grid = np.indices(SHAPE)
    away = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
    return np.asarray(away <= radius**2)


BRAIN = ball((20, 32, 32), 30) & (np.indices(SHAPE)[0] >= 2) & (np.indices(SHAPE)[0] < 38)


def case(
    truth: Mask,
    prediction: Mask,
    *,
    bright: Mask | None = None,
    level: int = TUMOUR,
    spacing: tuple[float, float, float] | None = MM,
    indices: NDArray[np.int32] | None = None,
    name: str = "P",
    probability: float = 1.0,
) -> Case:
    """A patient whose tumour (or what ``bright`` says) stands out of noisy tissue."""
    rng = np.random.default_rng(0)
    image = np.where(truth if bright is None else bright, level, TISSUE)
    image = np.clip(image + rng.normal(0, NOISE, SHAPE), 1, 255) * BRAIN
    truth, prediction = truth & BRAIN, prediction & BRAIN
    score = score_patient(name, prediction, truth, spacing, contiguous=True, surface=False)
    return Case(
        patient_id=name,
        image=image.astype(np.uint8),
        truth=truth.astype(np.uint8),
        probability=(prediction * 255 * probability).astype(np.uint8),
        prediction=prediction.astype(np.uint8),
        slice_indices=np.arange(SHAPE[0], dtype=np.int32) if indices is None else indices,
        spacing_mm=spacing,
        upright=False,
        score=score,
    )


LARGE = ball((20, 30, 26), 9)
NOTHING = np.zeros(SHAPE, dtype=bool)


# ---- the partition ------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([MM, (4.0, 0.9, 0.9), None]))
def test_every_wrong_voxel_is_in_one_region_and_nothing_else_is(
    seed: int, spacing: tuple[float, float, float] | None
) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, 14, 30, 30)), (0, 1.5, 2, 2))
    truth, prediction = smooth > 0.8 * smooth.std()
    space = Space(spacing or (5.0, 1.0, 1.0), "mm" if spacing else "px", contiguous=True)
    partition = divide(truth, prediction, space)
    assert np.array_equal(partition.labels > 0, truth ^ prediction)
    present = set(np.unique(partition.labels)) - {0}
    assert present == set(range(1, len(partition.kinds) + 1))


def test_lost_dice_is_shared_out_exactly() -> None:
    prediction = np.roll(LARGE, 4, axis=1) | ball((30, 46, 40), 4)
    explained = explain(case(LARGE, prediction))
    truth, predicted = LARGE & BRAIN, prediction & BRAIN
    lost = (truth ^ predicted).sum() / (truth.sum() + predicted.sum())
    assert sum(f.lost_dice for f in explained.findings) == pytest.approx(lost)
    assert sum(explained.shares.values()) == pytest.approx(1)


def test_distances_are_those_of_the_distance_transform() -> None:
    rng = np.random.default_rng(3)
    mask = ndimage.binary_dilation(rng.random((12, 20, 22)) > 0.996, iterations=2)
    space = Space((3.0, 0.8, 1.1), "mm", contiguous=True)
    points = rng.random(mask.shape) > 0.5
    oracle = ndimage.distance_transform_edt(~mask, sampling=space.step)[points]
    assert space.distances(points, mask) == pytest.approx(oracle, abs=1e-4)


def test_the_boundary_is_what_lies_within_two_millimetres() -> None:
    grown = ndimage.distance_transform_edt(~LARGE) <= 2
    explained = explain(case(LARGE, grown))
    assert explained.shares == {Cause.BOUNDARY: pytest.approx(1)}
    assert explained.cause is Cause.BOUNDARY


# ---- one scene a cause --------------------------------------------------------------------

SMALL = ball((20, 44, 44), 4)
SECOND = ball((20, 44, 46), 7)
SHIFTED = LARGE.copy()
SHIFTED[13:28:2] = np.roll(LARGE[13:28:2], 11, axis=2)
AT_THE_END = ball((4, 32, 32), 13) & (np.indices(SHAPE)[0] <= 4)

SCENES = {
    "a small lesion is missed": (Cause.SMALL, case(LARGE | SMALL, LARGE)),
    "a faint tumour is missed": (Cause.LOW_CONTRAST, case(LARGE, NOTHING, level=TISSUE + 8)),
    "something bright is taken for tumour": (
        Cause.DISTRACTOR,
        case(LARGE, LARGE | SECOND, bright=LARGE | SECOND),
    ),
    "a bright thing and no tumour": (Cause.DISTRACTOR, case(NOTHING, SECOND, bright=SECOND)),
    "one of two lesions is missed": (Cause.COMPONENTS, case(LARGE | SECOND, LARGE)),
    "the truth jumps": (Cause.TRUTH, case(SHIFTED, LARGE, bright=LARGE)),
    "the end of the stack is missed": (
        Cause.STACK_ENDS,
        case(LARGE | AT_THE_END, LARGE),
    ),
    "a bright, large, single tumour is missed": (Cause.UNEXPLAINED, case(LARGE, NOTHING)),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_gets_its_cause(name: str) -> None:
    expected, scene = SCENES[name]
    explained = explain(scene)
    found = max(explained.shares, key=lambda cause: explained.shares[cause])
    assert found is expected


def test_intensity_comes_before_what_it_causes() -> None:
    scene = case(LARGE, NOTHING, level=TISSUE + 8)
    shifted = [np.where(scene.image > 0, scene.image // 2 + d, 0) for d in range(8)]
    assert explain(scene, learn_range(shifted)).cause is Cause.INTENSITY
    usual = [np.where(scene.image > 0, scene.image + np.uint8(d), 0) for d in range(5)]
    assert explain(scene, learn_range(usual)).cause is Cause.LOW_CONTRAST


def test_the_boundary_is_named_only_where_nothing_else_weighs() -> None:
    grown = ndimage.distance_transform_edt(~LARGE) <= 2
    both = explain(case(LARGE, grown | SECOND, bright=LARGE | SECOND))
    assert both.shares[Cause.BOUNDARY] > both.shares[Cause.DISTRACTOR] > 0.2
    assert both.cause is Cause.DISTRACTOR


def test_a_tumour_below_one_millilitre_is_its_own_cause() -> None:
    explained = explain(case(SMALL, SMALL | LARGE, bright=SMALL | LARGE))
    assert explained.shares[Cause.DISTRACTOR] > 0.9
    assert explained.cause is Cause.SMALL


def test_a_perfect_prediction_has_no_cause() -> None:
    explained = explain(case(LARGE, LARGE))
    assert explained.cause is None
    assert not explained.findings
    assert explain(case(NOTHING, NOTHING)).cause is None


# ---- measurements -------------------------------------------------------------------------


def test_contrast_is_in_standard_deviations_of_the_tissue_around() -> None:
    contrast = explain(case(LARGE, NOTHING)).evidence.tumour_contrast
    assert contrast == pytest.approx((TUMOUR - TISSUE) / NOISE, rel=0.1)


@pytest.mark.parametrize("upright", [True, False])
def test_a_finding_says_on_which_side_of_the_head_it_lies(upright: bool) -> None:
    """As it is shown: the patient's right at the viewer's left, the front on top."""
    for (row, column), side in {
        (18, 18): "right anterior",
        (18, 46): "left anterior",
        (46, 18): "right posterior",
        (46, 32): "posterior",
        (32, 46): "left",
        (32, 32): "",
    }.items():
        centre = (20, row, column) if upright else (20, column, row)
        lesion = ball(centre, 5)
        made = dataclasses.replace(case(lesion, NOTHING), upright=upright)
        found = explain(made).findings[0]
        assert found.evidence.side == side
        named = f"to 25 ({side})" if side else "to 25 is"
        assert named in describe(found, explain(made).evidence)


def test_overlap_of_neighbours() -> None:
    mask = np.zeros((4, 10, 10), dtype=bool)
    mask[0, :5, :8] = mask[1, :5, :4] = mask[2, 2:7, :4] = True
    assert neighbour_overlap(mask) == pytest.approx([1, 0.6, np.nan], nan_ok=True)


def test_a_jump_is_the_truths_fault_only_if_the_prediction_does_not_jump() -> None:
    space = Space(MM, "mm", contiguous=True)
    assert inconsistent_slices(SHIFTED, LARGE, space).size > 5
    assert inconsistent_slices(SHIFTED, SHIFTED, space).size == 0
    assert inconsistent_slices(LARGE, SHIFTED, space).size == 0
    skipped = LARGE.copy()
    skipped[20] = False
    assert list(inconsistent_slices(skipped, LARGE, space)) == [20]


def test_brain_quantiles_are_numpys() -> None:
    image = np.random.default_rng(1).integers(0, 200, (5, 40, 40)).astype(np.uint8)
    oracle = np.quantile(
        image[image > 0], (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98), method="inverted_cdf"
    )
    assert brain_quantiles(image) == pytest.approx(oracle)


def test_too_few_training_patients_exclude_nobody() -> None:
    image = case(LARGE, LARGE).image
    narrow = learn_range([image // 3] * 4)
    assert narrow.excess(image) == 0
    assert not narrow.excludes(image)
    assert not learn_range([]).excludes(image)


def test_without_spacing_everything_is_in_pixels() -> None:
    explained = explain(case(LARGE | SMALL, LARGE, spacing=None))
    assert explained.evidence.unit == "px"
    assert " ml" not in paragraph(explained)
    assert "pixels" in paragraph(explained)


def test_slices_with_gaps_are_looked_at_one_by_one() -> None:
    gaps = np.arange(0, 3 * SHAPE[0], 3, dtype=np.int32)
    explained = explain(case(SHIFTED, LARGE, bright=LARGE, indices=gaps))
    assert Cause.TRUTH not in explained.shares
    assert sum(explained.shares.values()) == pytest.approx(1)


# ---- planted in phantoms ------------------------------------------------------------------

EXPECTED = {
    "tiny": Cause.SMALL,
    "faint": Cause.LOW_CONTRAST,
    "distractor": Cause.DISTRACTOR,
    "distractor_only": Cause.DISTRACTOR,
    "shifted_truth": Cause.TRUTH,
    "intensity": Cause.INTENSITY,
}
PATIENTS = range(4)


def phantom(patient: int, plant: str | None) -> tuple[NDArray[np.uint8], Mask, object]:
    made = make_patient(5, patient, size=96, slices=62, plant=plant)  # type: ignore[arg-type]
    flair = made.image[..., 0]
    brain = brain_mask(flair, shared_scale=True)
    image, _ = quantise(flair, brain, "zscore", "volume")
    return image, made.labels > 0, made.traits


def what_a_network_would_say(patient: int, plant: str, truth: Mask) -> Mask:
    """Stand in for a network: it finds the unplanted tumour, and falls for what is planted."""
    image, usual, _ = phantom(patient, None)
    rough = ndimage.binary_dilation(usual) & (image > 0)
    if plant in ("tiny", "faint"):
        return np.zeros_like(truth)
    if plant == "shifted_truth":
        return rough
    if plant == "intensity":
        # One side of the head looks dark: half of the tumour is lost.
        half = np.arange(truth.shape[1])[:, None] < np.median(np.nonzero(usual)[1])
        return rough & half
    planted_image, _, traits = phantom(patient, plant)
    at = getattr(traits, "distractor", None)
    assert at is not None
    blob = ndimage.distance_transform_edt(~_only(truth.shape, at)) <= 4
    return (rough & truth) | (blob & (planted_image > 120))


def _only(shape: tuple[int, ...], at: tuple[int, int, int]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[at] = True
    return mask


@pytest.fixture(scope="module")
def usual_range() -> IntensityRange:
    return learn_range(phantom(patient, None)[0] for patient in range(20, 32))


def test_planted_failures_get_their_cause(usual_range: IntensityRange) -> None:
    right, wrong = 0, []
    for plant, expected in EXPECTED.items():
        for patient in PATIENTS:
            image, truth, _ = phantom(patient, plant)
            prediction = what_a_network_would_say(patient, plant, truth)
            spacing = (2.5, 2.5, 2.5)
            made = dataclasses.replace(
                case(LARGE, LARGE),
                image=image,
                truth=truth.astype(np.uint8),
                prediction=prediction.astype(np.uint8),
                probability=(prediction * 255).astype(np.uint8),
                slice_indices=np.arange(len(image), dtype=np.int32),
                spacing_mm=spacing,
                score=score_patient("P", prediction, truth, spacing, True, surface=False),
            )
            found = explain(made, usual_range).cause
            right += found is expected
            wrong += [(plant, patient, found)] * (found is not expected)
    assert right >= 0.9 * len(EXPECTED) * len(PATIENTS), wrong


# ---- selection and prose ------------------------------------------------------------------


def explained_at(name: str, prediction: Mask, truth: Mask = LARGE) -> Explanation:
    return explain(case(truth, prediction, name=name))


@pytest.fixture(scope="module")
def patients() -> list[Explanation]:
    grown = ndimage.distance_transform_edt(~LARGE) <= 2
    return [
        explained_at("good", LARGE),
        explained_at("rim", grown),
        explained_at("too-much", ndimage.distance_transform_edt(~LARGE) <= 7),
        explained_at("too-little", ball((20, 30, 26), 5)),
        explained_at("missed-one", LARGE, LARGE | SECOND),
        explained_at("alarms", LARGE | ball((34, 32, 32), 4)),
        explained_at("healthy", SECOND, NOTHING),
    ]


def test_cases_are_chosen_by_rule(patients: list[Explanation]) -> None:
    chosen = analyse(patients, count=2).selection
    assert chosen[Rule.BEST][0] == "good"
    assert chosen[Rule.WORST][0] == "too-little"
    assert chosen[Rule.MISSED] == ("missed-one",)
    assert chosen[Rule.FALSE_ALARM] == ("healthy", "too-much")
    assert chosen[Rule.OVER][0] == "too-much"
    assert "too-little" in chosen[Rule.UNDER]
    assert chosen[Rule.BOUNDARY] == ("rim",)


def test_at_least_three_are_shown_as_worst(patients: list[Explanation]) -> None:
    for count in (3, 4, 7):
        some = patients[:count]
        assert len(analyse(some, count=1).selection[Rule.WORST]) == 3


def test_costs_add_up_to_the_lost_dice(patients: list[Explanation]) -> None:
    analysis = analyse(patients)
    assert sum(cost.share for cost in analysis.costs) == pytest.approx(1)
    assert sum(cost.patients for cost in analysis.costs) == sum(
        e.cause is not None for e in patients
    )
    assert list(analysis.explanations)[-1] == "healthy"


def test_a_patient_may_not_be_explained_twice(patients: list[Explanation]) -> None:
    with pytest.raises(ValueError, match="twice"):
        analyse([patients[0], patients[0]])


def test_no_patients_no_failures() -> None:
    analysis = analyse([])
    assert analysis.costs == ()
    assert analysis.shown == ()


@pytest.mark.parametrize("name", SCENES)
def test_a_paragraph_says_what_was_measured(name: str) -> None:
    scene = SCENES[name][1]
    explained = explain(scene)
    text = paragraph(explained)
    assert text.startswith("P has")
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    if not math.isnan(scene.score.dice):
        assert f"Dice {scene.score.dice:.2f}" in text
    for finding in explained.findings:
        sentence = describe(finding, explained.evidence)
        assert sentence.endswith(".")
        assert sentence[0].isupper()

"""Explaining failures: the partition is exact, causes follow their rules, work is bounded."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from seglab.evaluation.failure_report import MEANINGS, analyse, describe, paragraph
from seglab.evaluation.failures import Cause, Explanation, explain
from seglab.evaluation.metrics import Case, score_patient
from seglab.evaluation.regions import Space, divide

Mask = NDArray[np.bool_]
SHAPE = (40, 64, 64)
MM = (1.0, 1.0, 1.0)
TISSUE, TUMOUR, NOISE = 90, 150, 12


def ball(centre: tuple[int, int, int], radius: float, shape: tuple[int, ...] = SHAPE) -> Mask:
    away = sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True))
    return np.asarray(away <= radius**2)


BRAIN = ball((20, 32, 32), 30) & (np.indices(SHAPE)[0] >= 2) & (np.indices(SHAPE)[0] < 38)
NOTHING = np.zeros(SHAPE, dtype=bool)
LARGE, SECOND, SMALL = ball((20, 30, 26), 9), ball((20, 44, 46), 7), ball((20, 44, 44), 4)
RIM = ndimage.distance_transform_edt(~LARGE) <= 2
WIDER = ndimage.distance_transform_edt(~LARGE) <= 5
TOUCHING = LARGE | ball((20, 30, 36), 9)


def case(
    truth: Mask,
    prediction: Mask,
    *,
    bright: Mask | None = None,
    level: int = TUMOUR,
    spacing: tuple[float, float, float] | None = MM,
    step: int = 1,
    name: str = "P",
    probability: float = 1.0,
) -> Case:
    """A patient whose tumour (or what ``bright`` says) stands out of noisy tissue."""
    rng = np.random.default_rng(0)
    image = np.where(truth if bright is None else bright, level, TISSUE)
    image = np.clip(image + rng.normal(0, NOISE, SHAPE), 1, 255) * BRAIN
    truth, prediction = truth & BRAIN, prediction & BRAIN
    return Case(
        patient_id=name,
        image=image.astype(np.uint8),
        truth=truth.astype(np.uint8),
        probability=np.where(prediction | (probability < 1), 255 * probability, 0).astype(np.uint8),
        prediction=prediction.astype(np.uint8),
        slice_indices=step * np.arange(SHAPE[0], dtype=np.int32),
        spacing_mm=spacing,
        upright=False,
        score=score_patient(name, prediction, truth, spacing, contiguous=True, surface=False),
    )


SCENES = {
    "a small lesion is missed": (Cause.SMALL, case(LARGE | SMALL, LARGE)),
    "a faint tumour is missed": (Cause.FAINT, case(LARGE, NOTHING, level=TISSUE + 8)),
    "a bright thing is taken for tumour": (
        Cause.DISTRACTOR,
        case(LARGE, LARGE | SECOND, bright=LARGE | SECOND),
    ),
    "a bright thing and no tumour": (Cause.DISTRACTOR, case(NOTHING, SECOND, bright=SECOND)),
    "a bright thing that touches": (Cause.DISTRACTOR, case(LARGE, TOUCHING, bright=TOUCHING)),
    "an outline that is too wide": (Cause.WIDE, case(LARGE, WIDER)),
    "the rim": (Cause.BOUNDARY, case(LARGE, RIM)),
    "a bright, large tumour is missed": (Cause.VISIBLE, case(LARGE, NOTHING)),
}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([MM, (4.0, 0.9, 0.9), None]), st.booleans())
def test_every_wrong_voxel_is_in_one_region_and_nothing_else_is(
    seed: int, spacing: tuple[float, float, float] | None, contiguous: bool
) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, 14, 30, 30)), (0, 1.5, 2, 2))
    truth, prediction = smooth > 0.8 * smooth.std()
    space = Space(spacing or (5.0, 1.0, 1.0), "mm" if spacing else "px", contiguous)
    partition = divide(truth, prediction, space)
    assert np.array_equal(partition.labels > 0, truth ^ prediction)
    present = set(np.unique(partition.labels)) - {0}
    assert present == set(range(1, len(partition.kinds) + 1))
    boundary = np.isin(
        partition.labels, [k for k, kind in enumerate(partition.kinds, 1) if kind == "boundary"]
    )
    if contiguous:  # distances by another way: all within the rim of the other side
        away = [ndimage.distance_transform_edt(m, sampling=space.step) for m in (truth, ~truth)]
        assert (np.where(truth, *away)[boundary] <= space.rim + 1e-9).all()


def test_lost_dice_is_shared_out_exactly() -> None:
    prediction = np.roll(LARGE, 4, axis=1) | ball((30, 46, 40), 4)
    explained = explain(case(LARGE, prediction))
    truth, predicted = LARGE & BRAIN, prediction & BRAIN
    lost = (truth ^ predicted).sum() / (truth.sum() + predicted.sum())
    assert sum(f.lost_dice for f in explained.findings) == pytest.approx(lost)
    assert sum(explained.shares.values()) == pytest.approx(1)


def test_a_rim_of_one_pixel_is_the_boundary_however_large_pixels_are() -> None:
    coarse, square = (4.0, 2.5, 2.5), np.ones((1, 3, 3)) > 0
    explained = explain(case(LARGE, ndimage.binary_dilation(LARGE, square), spacing=coarse))
    assert explained.shares == {Cause.BOUNDARY: pytest.approx(1)}
    assert "within 3.5 mm of the true surface" in paragraph(explained)
    deep = ndimage.binary_dilation(LARGE, square, iterations=3)
    assert explain(case(LARGE, deep, spacing=coarse)).shares.get(Cause.BOUNDARY, 0) < 0.1


def test_where_nothing_is_predicted_the_highest_probability_says_why() -> None:
    text = paragraph(explain(case(LARGE, NOTHING, probability=0.31)))
    assert "nothing was predicted: the highest probability is 31% (Dice 0.00)" in text


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_gets_its_cause_and_a_paragraph_of_what_was_measured(name: str) -> None:
    expected, scene = SCENES[name]
    explained = explain(scene)
    assert next(iter(explained.shares)) is expected
    assert explained.cause is expected
    text = paragraph(explained)
    assert text.startswith("P has")
    assert not re.search(r"\bnan\b|\binf\b|None|[{}]", text)
    if not math.isnan(scene.score.dice):
        assert f"Dice {scene.score.dice:.2f}" in text
    for finding in explained.findings:
        assert re.fullmatch(r"[A-Z][^{}]*\.", describe(finding, explained))


def test_the_boundary_is_named_only_where_nothing_else_weighs() -> None:
    both = explain(case(LARGE, RIM | SECOND, bright=LARGE | SECOND))
    assert both.shares[Cause.BOUNDARY] > both.shares[Cause.DISTRACTOR] > 0.2
    assert both.cause is Cause.DISTRACTOR
    assert f"boundary within 2 mm {both.shares[Cause.BOUNDARY]:.0%}, bright" in paragraph(both)


def test_a_tumour_below_one_millilitre_is_its_own_cause() -> None:
    explained = explain(case(SMALL, SMALL | LARGE, bright=SMALL | LARGE))
    assert explained.shares[Cause.DISTRACTOR] > 0.9
    assert explained.cause is Cause.SMALL
    assert "so small that each wrong voxel weighs heavily" in paragraph(explained)


def test_a_perfect_prediction_has_no_cause() -> None:
    for truth in (LARGE, NOTHING):
        explained = explain(case(truth, truth))
        assert explained.cause is None
        assert not explained.findings


def test_contrast_is_in_standard_deviations_of_the_tissue_around() -> None:
    contrast = explain(case(LARGE, NOTHING)).tumour_contrast
    assert contrast == pytest.approx((TUMOUR - TISSUE) / NOISE, rel=0.1)


def test_without_spacing_everything_is_in_pixels_and_gaps_part_slices() -> None:
    explained = explain(case(LARGE | SMALL, LARGE, spacing=None, step=3))
    assert explained.unit == "px"
    assert " ml" not in paragraph(explained)
    assert "pixels" in paragraph(explained)
    missed = [found for found in explained.findings if found.kind == "missed lesion"]
    assert len(missed) > 3
    assert all(finding.first_slice == finding.last_slice for finding in missed)


@pytest.mark.parametrize("density", [0.03, 0.5, 1.0])
def test_a_hopeless_prediction_is_judged_in_bounded_time(density: float) -> None:
    """A whole volume, and the noise of an untrained network in it."""
    shape = (155, 240, 240)
    brain = (
        sum(((a - n / 2) / (0.4 * n)) ** 2 for a, n in zip(np.indices(shape), shape, strict=True))
        < 1
    )
    truth = ball((80, 100, 90), 20, shape)
    prediction = brain & (np.random.default_rng(0).random(shape) < density)
    image = brain.astype(np.uint8) * 100
    start = time.process_time()
    score = score_patient("P", prediction, truth, MM, contiguous=True)
    scored = time.process_time()
    explained = explain(
        Case(
            *("P", image, truth.view(np.uint8), image, prediction.view(np.uint8)),
            *(np.arange(155, dtype=np.int32), MM, False, score),
        )
    )
    explained_at = time.process_time()
    assert score.hd95_mm > 20
    assert sum(explained.shares.values()) == pytest.approx(1)
    # A second each where nothing else runs.
    assert scored - start < 4
    assert explained_at - scored < 12


@pytest.fixture(scope="module")
def patients() -> list[Explanation]:
    shown = {
        "good": (LARGE, LARGE),
        "rim": (LARGE, RIM),
        "too-much": (LARGE, ndimage.distance_transform_edt(~LARGE) <= 7),
        "too-little": (LARGE, ball((20, 30, 26), 5)),
        "missed-one": (LARGE | SECOND, LARGE),
        "alarms": (LARGE, LARGE | ball((34, 32, 32), 4)),
        "healthy": (NOTHING, SECOND),
    }
    return [explain(case(*masks, name=name)) for name, masks in shown.items()]


def test_cases_are_chosen_by_rule(patients: list[Explanation]) -> None:
    chosen = analyse(patients, count=2).selection
    assert chosen.keys() == MEANINGS.keys()
    assert (chosen["best"][0], chosen["worst"][0]) == ("good", "too-little")
    assert chosen["missed lesion"] == ("missed-one",)
    assert chosen["false alarm on empty slices"] == ("healthy", "too-much")
    assert chosen["over-segmentation"][0] == "too-much"
    assert "too-little" in chosen["under-segmentation"]
    assert chosen["boundary only"] == ("rim",)
    for count in (3, 4, 7):
        assert len(analyse(patients[:count], count=1).selection["worst"]) == 3


def test_costs_add_up_to_the_lost_dice(patients: list[Explanation]) -> None:
    analysis = analyse(patients)
    assert sum(cost.share for cost in analysis.costs) == pytest.approx(1)
    explained = sum(e.cause is not None for e in patients)
    assert sum(cost.patients for cost in analysis.costs) == explained
    assert list(analysis.explanations)[-1] == "healthy"
    assert analyse([]).costs == ()

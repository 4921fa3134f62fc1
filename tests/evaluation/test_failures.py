"""Explaining failures: the partition is exact, causes follow their rules, work is bounded."""

from __future__ import annotations

import math
import re
import time
from typing import NamedTuple

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
SPECK = ball((20, 30, 26), 1)
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


class Scene(NamedTuple):
    cause: Cause
    truth: Mask
    prediction: Mask
    bright: Mask | None = None
    level: int = TUMOUR
    probability: float = 1.0
    told: str = ""


SCENES = {
    "a small lesion is missed": Scene(Cause.SMALL, LARGE | SMALL, LARGE),
    "a faint tumour is missed": Scene(
        *(Cause.FAINT, LARGE, NOTHING, LARGE, TISSUE + 8, 0.31),
        told=r"nothing was predicted: the highest probability is 31% \(Dice 0.00\)",
    ),
    "a bright thing far away": Scene(Cause.DISTRACTOR, LARGE, LARGE | SECOND, LARGE | SECOND),
    "a bright thing and no tumour": Scene(Cause.DISTRACTOR, NOTHING, SECOND, SECOND),
    "a bright thing that touches": Scene(Cause.DISTRACTOR, LARGE, TOUCHING, TOUCHING),
    "an outline that is too wide": Scene(Cause.WIDE, LARGE, WIDER),
    "the rim": Scene(Cause.BOUNDARY, LARGE, RIM, told="is 67% too large [(]"),
    "a bright, large tumour is missed": Scene(Cause.VISIBLE, LARGE, NOTHING),
    "the cause of the largest share is named first": Scene(
        *(Cause.BOUNDARY, LARGE, RIM | SECOND, LARGE | SECOND),
        told=r"boundary within 2 mm \d+%, bright",
    ),
    "a tumour below 1 ml and a false alarm": Scene(
        *(Cause.DISTRACTOR, SMALL, SMALL | LARGE, SMALL | LARGE),
        told="12.9 times its size .* so small that each wrong voxel weighs heavily",
    ),
    "specks of a tumour below 1 ml": Scene(
        *(Cause.SMALL, SPECK, np.roll(SPECK, 9, axis=2)),
        told="all of it was missed, and less than 0.1 ml were marked elsewhere",
    ),
}


@settings(max_examples=25)
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
    assert set(np.unique(partition.labels)) - {0} == set(range(1, len(partition.kinds) + 1))
    if contiguous:  # distances by another way: all within the rim of the other side
        rims = [k for k, kind in enumerate(partition.kinds, 1) if kind == "boundary"]
        boundary = np.isin(partition.labels, rims)
        away = [ndimage.distance_transform_edt(m, sampling=space.step) for m in (truth, ~truth)]
        assert (np.where(truth, *away)[boundary] <= space.rim + 1e-9).all()


def test_a_rim_of_one_pixel_is_the_boundary_however_large_pixels_are() -> None:
    coarse, square = (4.0, 2.5, 2.5), np.ones((1, 3, 3)) > 0
    explained = explain(case(LARGE, ndimage.binary_dilation(LARGE, square), spacing=coarse))
    assert explained.shares == {Cause.BOUNDARY: pytest.approx(1)}
    assert "within 3.5 mm of the true surface" in paragraph(explained)
    deep = ndimage.binary_dilation(LARGE, square, iterations=3)
    assert explain(case(LARGE, deep, spacing=coarse)).shares.get(Cause.BOUNDARY, 0) < 0.1


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_gets_its_cause_and_a_paragraph_of_what_was_measured(name: str) -> None:
    cause, *masks, bright, level, probability, told = SCENES[name]
    patient = case(*masks, bright=bright, level=level, probability=probability)
    explained, dice = explain(patient), patient.score.dice
    assert explained.cause is cause
    assert sum(explained.shares.values()) == pytest.approx(1)
    text = paragraph(explained)
    assert text.startswith("P has")
    assert re.search(told, text)
    assert not re.search(r"\bnan\b|\binf\b|None|[{}]", text)
    if not math.isnan(dice):
        assert f"Dice {dice:.2f}" in text
        assert sum(found.lost_dice for found in explained.findings) == pytest.approx(1 - dice)
    for finding in explained.findings:
        assert re.fullmatch(r"[A-Z][^{}]*\.", describe(finding, explained))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 3), st.booleans()), max_size=4))
def test_texts_shares_and_table_rank_causes_alike(drawn: list[tuple[int, float, bool]]) -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 3)
    explained = []
    for number, (seed, limit, has_tumour) in enumerate(drawn):
        other = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
        prediction = smooth / smooth.std() + other / other.std() > limit
        truth = smooth > 1.5 * smooth.std() if has_tumour else NOTHING
        explained.append(explain(case(truth, prediction, name=f"P{number}")))
    analysis = analyse(explained)
    found = analysis.to_json()
    for one, entry in zip(analysis.explanations.values(), found["cases"], strict=True):
        shares = list(one.shares.values())
        assert (shares, entry["causes"]) == (sorted(shares, reverse=True), one.shares)
        assert entry["cause"] is next(iter(one.shares), None)
        sentence = entry["text"].partition("Of the ")[2].partition(". ")[0]
        told = re.findall(r"[:,] ([a-z][^,:]*) (\d+)%", sentence)
        shown = {cause: share for cause, share in one.shares.items() if share >= 0.05}
        assert told == [(cause, f"{100 * share:.0f}") for cause, share in shown.items()]
        if one.score.tp:
            ratio = one.score.pred_px / one.score.truth_px
            sizes = {
                "too large": 1.1 < ratio < 2,
                "times its": ratio >= 2,
                "too small": ratio < 0.9,
            }
            assert {word for word in sizes if word in entry["text"]} == {
                word for word, fits in sizes.items() if fits
            }
    for cost in analysis.costs:
        assert cost.patients == sum(one["cause"] == cost.cause for one in found["cases"])
        assert cost.findings > 0
    ranked = [-np.nan_to_num(cost.share) for cost in analysis.costs]
    assert ranked == sorted(ranked)


def test_a_perfect_prediction_has_no_cause_and_the_contrast_of_the_tumour() -> None:
    for truth in (LARGE, NOTHING):
        explained = explain(case(truth, truth))
        assert (explained.cause, explained.findings) == (None, ())
    contrast = explain(case(LARGE, LARGE)).tumour_contrast  # in deviations of the tissue around
    assert contrast == pytest.approx((TUMOUR - TISSUE) / NOISE, rel=0.1)


def test_scattered_slices_tell_no_volume_and_so_no_small_lesion() -> None:
    whole = explain(case(LARGE | SMALL, LARGE))
    assert Cause.SMALL in whole.shares
    scattered = explain(case(LARGE | SMALL, LARGE, step=3))
    assert Cause.SMALL not in scattered.shares
    assert "in the slices that are there (40)" in paragraph(scattered)
    assert "slices that are there" not in paragraph(whole)


def test_without_spacing_everything_is_in_pixels_and_gaps_part_slices() -> None:
    explained = explain(case(LARGE | SMALL, LARGE, spacing=None, step=3))
    assert explained.unit == "px"
    assert " ml" not in paragraph(explained)
    assert " px " in paragraph(explained)
    missed = [found for found in explained.findings if found.kind == "missed lesion"]
    assert len(missed) > 3
    assert all(finding.first_slice == finding.last_slice for finding in missed)


@pytest.mark.parametrize("density", [0.03, 0.5, 1.0])
def test_a_hopeless_prediction_is_judged_in_bounded_time(density: float) -> None:
    """The noise of an untrained network in a whole volume."""
    shape = (155, 240, 240)
    away = (((a - n / 2) / (0.4 * n)) ** 2 for a, n in zip(np.indices(shape), shape, strict=True))
    brain, truth = sum(away) < 1, ball((80, 100, 90), 20, shape)
    prediction = brain & (np.random.default_rng(0).random(shape) < density)
    image = brain.astype(np.uint8) * 100
    start = time.process_time()
    score = score_patient("P", prediction, truth, MM, contiguous=True)
    scored = time.process_time()
    masks = (image, truth.view(np.uint8), image, prediction.view(np.uint8))
    explained = explain(Case("P", *masks, np.arange(155, dtype=np.int32), MM, False, score))
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
    for count in (2, 3, 4, 7):
        worst, best = (analyse(patients[:count]).selection[rule] for rule in ("worst", "best"))
        assert worst
        assert not {*worst} & {*best}


def test_costs_add_up_to_the_lost_dice(patients: list[Explanation]) -> None:
    analysis = analyse(patients)
    assert sum(cost.share for cost in analysis.costs) == pytest.approx(1)
    assert sum(cost.patients for cost in analysis.costs) == sum(bool(e.cause) for e in patients)
    assert list(analysis.explanations)[-1] == "healthy"
    assert analyse([]).costs == ()

"""Explaining failures: the partition is exact, each scene gets its own cause."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from seglab.evaluation.failures import Cause, describe, explain, learn_range, paragraph
from seglab.evaluation.failures.consistency import inconsistent_slices, neighbour_overlap
from seglab.evaluation.failures.intensity import brain_quantiles
from seglab.evaluation.failures.regions import divide
from seglab.evaluation.failures.space import Space
from tests.evaluation.scenes import (
    BRAIN,
    LARGE,
    MM,
    NOISE,
    NOTHING,
    SCENES,
    SECOND,
    SHAPE,
    SHIFTED,
    SMALL,
    TISSUE,
    TUMOUR,
    ball,
    case,
)

Mask = NDArray[np.bool_]

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


def test_a_rim_of_one_pixel_is_the_boundary_however_large_pixels_are() -> None:
    coarse = (4.0, 2.5, 2.5)
    grown = ndimage.binary_dilation(LARGE, np.ones((1, 3, 3)) > 0) & BRAIN
    explained = explain(case(LARGE, grown, spacing=coarse))
    assert explained.cause is Cause.BOUNDARY
    assert "within 3.5 mm of the true surface" in paragraph(explained)
    deep = ndimage.binary_dilation(LARGE, np.ones((1, 3, 3)) > 0, iterations=3) & BRAIN
    assert explain(case(LARGE, deep, spacing=coarse)).shares.get(Cause.BOUNDARY, 0) < 0.1


# ---- one scene a cause --------------------------------------------------------------------


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


def squares(slices: range, jump: int = 0) -> Mask:
    """A square of 12 pixels in each of the slices, every other one ``jump`` to the right."""
    mask = NOTHING.copy()
    for index in slices:
        left = 20 + jump * (index % 2)
        mask[index, 26:38, left : left + 12] = True
    return mask


def test_the_overlap_that_is_told_is_of_slices_that_were_doubted() -> None:
    """Not of those where the truth ends and the prediction does not."""
    truth, prediction = squares(range(10, 30), jump=6), squares(range(8, 33))
    told = paragraph(explain(case(truth, prediction, bright=prediction)))
    assert "by as little as 50% where the prediction's overlap by 100%" in told


def test_a_slice_left_empty_between_two_is_told_as_that() -> None:
    truth = squares(range(10, 30))
    truth[20] = False
    explained = explain(case(truth, squares(range(10, 30)), bright=squares(range(10, 30))))
    assert explained.cause is Cause.TRUTH
    told = paragraph(explained)
    assert "In slice 20 the expert outlined nothing between two slices" in told
    assert "nan" not in told
    assert " 0%" not in told


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

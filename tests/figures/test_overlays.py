"""Overlays: the right colour in the right place, the right way round, for every reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from seglab.evaluation.failure_report import told_finding
from seglab.evaluation.failures import explain
from seglab.evaluation.metrics import Case
from seglab.figures.sheets import choose_slices, failure_sheet, overlay_sheet
from seglab.figures.slices import brain_window, cut, draw_overlay, draw_slice, radiological
from seglab.figures.style import AGREEMENT, FALSE_ALARM, MISSED, RGB
from tests.figures.pixels import pixels

MakeCase = Callable[..., Case]
SCALE = 6


def scene() -> tuple[NDArray[np.uint8], ...]:
    """Three squares on a grey slice (40, 30): agreed, missed, false."""
    image = np.full((40, 30), 90, np.uint8)
    truth, prediction = np.zeros_like(image), np.zeros_like(image)
    truth[5:12, 5:12] = prediction[5:12, 5:12] = 1
    truth[20:27, 5:12] = 1
    prediction[20:27, 18:25] = 1
    return image, truth, prediction


def near(picture: NDArray[np.uint8], colour: RGB, row: int, column: int) -> bool:
    """Whether the colour occurs, unblended, around a pixel of the slice."""
    part = picture[
        (row - 4) * SCALE : (row + 5) * SCALE, (column - 4) * SCALE : (column + 5) * SCALE
    ]
    return bool((part == colour).all(axis=-1).any())


def test_each_region_has_its_colour() -> None:
    picture = draw_overlay(*scene(), SCALE)
    places = {AGREEMENT: (8, 8), MISSED: (23, 8), FALSE_ALARM: (23, 21)}
    for colour, at in places.items():
        assert near(picture, colour, *at)
        for other in set(places) - {colour}:
            assert not near(picture, other, *at)
    assert tuple(picture[8 * SCALE, 8 * SCALE]) == (90, 90, 90), "agreement shows the image"
    assert tuple(picture[23 * SCALE, 8 * SCALE]) != (90, 90, 90)


def test_a_stored_slice_on_its_side_is_shown_with_the_patients_right_at_the_left() -> None:
    # BraTS: axis 0 runs from the patient's right to the left, axis 1 from front to back.
    image = np.full((40, 30), 10, np.uint8)
    image[2:6, 20:24] = 250
    picture = draw_slice(radiological(image, upright=False), SCALE)
    assert picture.shape == (30 * SCALE, 40 * SCALE, 3)
    assert picture[22 * SCALE, 4 * SCALE, 0] > 200


def test_slices_are_chosen_by_rule_and_named_by_every_rule_that_chose_them() -> None:
    truth, prediction = np.zeros((2, 30, 20, 20), np.uint8)
    truth[8, :10, :10] = prediction[8, :10, :10] = 1
    truth[20, :4] = 1
    prediction[9, :12] = 1
    assert choose_slices(truth, prediction) == {
        8: "largest tumour",
        20: "most missed",
        9: "most false alarm",
    }
    truth[20] = 1
    assert choose_slices(truth, prediction) == {
        20: "largest tumour, most missed",
        9: "most false alarm",
    }
    nothing = np.zeros((9, 8, 8), np.uint8)
    assert choose_slices(nothing, nothing) == {4: "middle slice"}


def test_a_failure_is_shown_where_its_text_says(make_case: MakeCase) -> None:
    explanation = explain(case := make_case())
    told = told_finding(explanation)
    assert told is not None
    left, right = failure_sheet(case, explanation).axes[:2]
    assert left.get_xlabel().endswith(f"slice {told.peak_slice}")
    assert told.kind in right.get_xlabel()


def test_the_window_holds_the_brain_and_has_the_shape_asked_for() -> None:
    image = np.zeros((3, 50, 60), np.uint8)
    image[1, 10:30, 40:58] = 1
    for aspect in (None, 0.5, 1.5):
        window = brain_window(image, aspect)
        part = cut(image, window)
        assert part.sum() == image.sum()
        if aspect is not None:
            assert part.shape[2] / part.shape[1] == pytest.approx(aspect, abs=0.03)
    assert cut(image, brain_window(np.zeros_like(image))).shape[1:] >= (50, 60)


def test_patients_of_one_slice_share_a_row_and_others_have_their_own(make_case: MakeCase) -> None:
    cases = [make_case(name) for name in "abc"]
    one, shared = pixels(overlay_sheet(cases[:1], "title")), pixels(overlay_sheet(cases, "title"))
    assert one.shape[0] == shared.shape[0]
    assert 1.5 * one.shape[1] == pytest.approx(shared.shape[1], abs=2)
    several = [replace(case, prediction=np.roll(case.prediction, 4, axis=0)) for case in cases]
    rows = [pixels(overlay_sheet(several[:count], "title", "worst")).shape for count in (1, 3)]
    assert rows[0][1] == rows[1][1] == shared.shape[1]
    assert (rows[1][0] - rows[0][0]) / 2 > 300
    for colour in (AGREEMENT, MISSED, FALSE_ALARM):
        assert (np.abs(one.astype(int) - colour).max(axis=-1) < 40).sum() > 50


def test_figures_beside_a_patient_are_read_to_their_end(make_case: MakeCase) -> None:
    """A row of fewer slices has empty panels, above which the text of the first one goes on."""
    case = make_case("a patient")
    several = replace(case, prediction=np.roll(case.prediction, 4, axis=0))
    sheet = overlay_sheet([several, case], "title", "worst")
    picture = pixels(sheet)
    (text,) = sheet.axes[6].texts
    box = text.get_window_extent()
    rows = slice(round(len(picture) - box.y1), round(len(picture) - box.y0))
    last = picture[rows, round(box.x1 - 20) : round(box.x1)]
    assert box.width > 2 * sheet.axes[6].bbox.width
    assert (last > 128).any()

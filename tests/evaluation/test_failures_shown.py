"""Which failures are shown, and what is said of them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from seglab.evaluation.failures import (
    Cause,
    Explanation,
    Rule,
    analyse,
    describe,
    explain,
    paragraph,
)
from tests.evaluation.scenes import LARGE, NOTHING, SCENES, SECOND, ball, case

Mask = NDArray[np.bool_]


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


def test_the_main_cause_is_not_called_so_where_the_boundary_cost_more() -> None:
    grown = ndimage.distance_transform_edt(~LARGE) <= 2
    explained = explain(case(LARGE, grown | SECOND, bright=LARGE | SECOND))
    rim, distractor = (explained.shares[one] for one in (Cause.BOUNDARY, Cause.DISTRACTOR))
    assert rim > distractor
    text = paragraph(explained)
    assert f"is disagreement at the boundary within 2 mm ({rim:.0%}); beyond it" in text
    assert f"the main cause is an artefact or bright distractor ({distractor:.0%})" in text
    assert "Also at work" not in text


def test_a_false_part_reaches_from_the_tumour_and_a_false_lesion_lies_apart() -> None:
    touching = LARGE | ball((20, 30, 36), 9)
    for prediction, verb in ((LARGE | SECOND, "lies"), (touching, "reaches")):
        explained = explain(case(LARGE, prediction, bright=prediction))
        (found,) = (one for one in explained.findings if one.cause is Cause.DISTRACTOR)
        text = describe(found, explained.evidence)
        assert f" {verb} {found.evidence.distance:.0f} mm from the tumour" in text

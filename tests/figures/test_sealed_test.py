"""Pictures of a test hold the figures they show."""

from __future__ import annotations

import numpy as np
import pytest

from seglab.evaluation.metrics import PatientScore, score_patient
from seglab.figures.curves import patient_plot


def patient(number: int, spacing: tuple[float, float, float] | None) -> PatientScore:
    truth = np.zeros((4, 32, 32), dtype=bool)
    truth[1:3, : 5 + number, :10] = True
    return score_patient(f"P{number}", np.roll(truth, 2, axis=1), truth, spacing, True)


@pytest.mark.parametrize(("spacing", "unit"), [((1.0, 1.0, 1.0), "ml"), (None, "pixels")])
def test_both_scores_of_every_patient_are_drawn_against_the_tumours_size(
    spacing: tuple[float, float, float] | None, unit: str
) -> None:
    scores = [patient(number, spacing) for number in range(6)]
    _, sized = patient_plot(scores).axes
    drawn = {str(line.get_label()): line.get_xydata() for line in sized.lines}
    assert drawn.keys() == {"Dice", "IoU"}
    sizes = [2 * (5 + number) * 10 / (1000 if spacing else 1) for number in range(6)]
    for name in drawn:
        values = [score.dice if name == "Dice" else score.iou for score in scores]
        points = np.array(drawn[name])
        order = points[:, 0].argsort()
        assert np.allclose(points[order], np.column_stack([sizes, values]))
    legend = sized.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["Dice", "IoU"]
    assert unit in sized.get_xlabel()

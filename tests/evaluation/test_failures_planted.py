"""Failures planted in phantoms: each gets its own cause."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from seglab.data.normalise import brain_mask, quantise
from seglab.data.phantom import make_patient
from seglab.evaluation.failures import Cause, IntensityRange, explain, learn_range
from seglab.evaluation.metrics import score_patient
from tests.evaluation.scenes import LARGE, case

Mask = NDArray[np.bool_]

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

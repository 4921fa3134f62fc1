"""Patients made by hand, for failures whose cause is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.case import Case
from seglab.evaluation.failures import Cause
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
